"""Several sweeps side by side."""

import dataclasses
import json

import pytest
from rich.console import Console

from meanflow_core.errors import ConfigError
from orchestrator.cli.main import run as command
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.report.across import write_sweeps_report
from orchestrator.results.across import Reached, Side, compare_sweeps, side_of, sweeps_verdict
from orchestrator.results.across_text import sweeps_table
from orchestrator.spec.settings import Metric
from tests.orchestrator import simulation, toy
from tests.orchestrator.example_sweep import METRIC, record, spec


def group(key, values, **more):
    return [record(f"{key}.{i}" if i else f"{key}", value, seed=i, **more) for i, value in enumerate(values)]


def side(name, trials, path=(), environment=None, **changes):
    changed = dataclasses.replace(spec(), name=name, **changes)
    return Side(spec=changed, trials=trials, environment=environment or {}, wall_seconds=60.0, path=tuple(path))


GOOD, BAD = [3.4, 3.0, 3.4, 3.5], [6.9, 5.8, 13.0, 10.8]


def test_the_bests_are_compared_on_the_seeds_they_share_with_a_correction_for_their_number_alone():
    import numpy as np
    from scipy import stats

    a = side("a", [*group(1, GOOD), *group(2, [4.0, 4.1, 4.3, 4.2])])
    b = side("b", group(1, BAD))
    c = side("c", [record(7, 99.0)])
    found = compare_sweeps([b, a, c])
    raw = stats.ttest_1samp(np.log(np.array(BAD) / np.array(GOOD)), 0)
    assert found.bests["b"].p_value_vs_best == pytest.approx(raw.pvalue)
    assert found.bests["b"].vs_best.worse == pytest.approx(np.exp(np.log(np.array(BAD) / np.array(GOOD)).mean()))
    assert sweeps_verdict(found) == (
        "a is best: its trial 1 has eval/fid_1nfe 3.33 ± 0.35. "
        "That of b (trial 1, 9.1 ± 5.3) is 2.6 times worse [1.5, 4.4] (p=0.01, 4 shared seeds). "
        "That of c (trial 7, 99) is 29.1 times worse on the one seed they share, which may be chance."
    )
    assert [row.trial for row in found.rows] == ["a/1", "a/2", "b/1", "c/7"]


def test_what_differs_is_the_space_the_fixed_values_the_budget_and_the_code():
    half = spec().space.parameters[:-1]
    other = dataclasses.replace(spec().space, parameters=half)
    source = {**spec().source, "sweep": {**spec().source["sweep"], "run_cap": 8}}
    a = side("a", [record(1, 2.0)], environment={"code": "c1", "data": "digits"})
    b = side(
        "b", [record(1, 2.0)], environment={"code": "c2", "data": "digits"},
        space=other, set={**spec().set, "optimizer.lr": 1e-3, "trainer.steps": 900}, source=source,
    )  # fmt: skip
    found = compare_sweeps([a, b]).differences
    assert found["optimizer.lr"][0].startswith("searched: ")
    assert found["optimizer.lr"][1] == "0.001"
    assert found["trainer.steps"] == ("4500", "900")
    assert found["run_cap"] == ("24", "8")
    assert found["training code"] == ("c1", "c2")
    assert set(found) == {"optimizer.lr", "trainer.steps", "run_cap", "training code"}


def test_the_cost_is_told_of_the_value_that_all_have_reached_or_of_a_given_one():
    def path(*points):
        return [Reached(value, "1", 500, n, 60.0 * n, 0.0) for n, value in enumerate(points, start=1)]

    a = side("a", [record(1, 2.0)], path(9.0, 4.0, 2.0))
    b = side("b", [record(1, 4.5)], path(8.0, 4.5))
    found = compare_sweeps([a, b])
    assert found.target == 4.5
    assert (found.cost["a"].trials, found.cost["b"].seconds) == (2, 120.0)
    found = compare_sweeps([a, b], target=2.5)
    assert (found.cost["a"].trials, found.cost["b"]) == (3, None)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(sweeps_table(found, width=80))
    text = capture.get()
    assert "not reached" in text
    assert max(map(len, text.splitlines())) <= 80


def test_sweeps_of_different_metrics_and_one_named_twice_are_refused():
    a, b = side("a", [record(1, 2.0)]), side("b", [record(1, 2.0)], metrics=(Metric(name="eval/kid_1nfe"),))
    with pytest.raises(ConfigError, match="ranks by minimize eval/kid_1nfe, and a by minimize eval/fid_1nfe"):
        compare_sweeps([a, b])
    with pytest.raises(ConfigError, match="named twice"):
        compare_sweeps([a, a])


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = Home(tmp_path / "state")
    simulation.run(home, toy.sweep(name="narrow", run_cap=3, replicates={"top": 1, "seeds": 2}))
    simulation.run(home, toy.sweep(name="wide", run_cap=4, seed=5, replicates={"top": 1, "seeds": 2}))
    monkeypatch.setenv("MEANSWEEP_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    return home


def said(capsys, *words, code=0):
    assert command(list(words)) == code
    out, err = capsys.readouterr()
    return out + err


def test_the_cost_of_the_best_value_so_far_is_that_of_all_work_until_then(home):
    ledger = Ledger.open(home.sweep("wide"))
    found = side_of(ledger)
    values = [point.value for point in found.path]
    assert values == sorted(values, reverse=True)
    assert found.path[-1].value == min(v["loss"] for t in found.trials for v in t.reports.values())
    assert found.path[-1].seconds <= sum(trial.busy_seconds for trial in found.trials)
    assert found.path[0].seconds > 0


def test_one_command_compares_trials_and_sweeps(home, capsys):
    whole = json.loads(said(capsys, "compare", "narrow", "wide", "--json"))
    assert whole["sweeps"] == ["narrow", "wide"]
    assert set(whole["cost"]) == {"narrow", "wide"}
    for words in (["0", "1", "wide"], ["wide", "0", "1"], ["0", "wide", "1"]):
        assert json.loads(said(capsys, "compare", *words, "--json"))["trials"][1]["trial"] == "1"
    assert "no such sweep" in said(capsys, "compare", "narrow", "wied", code=2)
    assert "must be two trials" in said(capsys, "compare", "narrow", "3", code=2)
    assert "what differs" in said(capsys, "compare", "narrow", "wide")


def test_the_leaderboard_of_two_sweeps_is_one(home, capsys):
    rows = json.loads(said(capsys, "leaderboard", "narrow", "wide", "--json"))
    assert {row["sweep"] for row in rows} == {"narrow", "wide"}
    assert [row["rank"] for row in rows] == list(range(1, 8))
    alone = json.loads(said(capsys, "leaderboard", "wide", "--json"))
    assert [row["trial"] for row in rows if row["sweep"] == "wide"] == [row["trial"] for row in alone]
    assert "wide/" in said(capsys, "leaderboard", "narrow", "wide")


def test_the_report_of_two_sweeps_is_one_file(home, capsys, tmp_path):
    assert said(capsys, "report", "narrow", "wide") == "narrow-wide.html\n"
    page = (tmp_path / "narrow-wide.html").read_text()
    for text in ('id="verdict"', "Side by side", "What it cost", "Leaderboard of all", "run_cap"):
        assert text in page


def test_names_in_a_report_are_escaped(tmp_path):
    bad = side("a", [record(1, 2.0)], environment={"code": "<b>x</b>"})
    file = write_sweeps_report(compare_sweeps([bad, side("b", [record(1, 3.0)])]), tmp_path / "r.html", now=0.0)
    assert "<b>x</b>" not in file.read_text()
    assert METRIC in file.read_text()
