"""Which of a trial's reports it is judged by: `metric.at`, wherever trials are compared."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.api.frames import leaderboard_frame, trials_frame
from orchestrator.api.winning import winner
from orchestrator.engine import control, edits
from orchestrator.engine.budget import reached_target
from orchestrator.engine.engine import Engine
from orchestrator.engine.learning_curves import Curves
from orchestrator.engine.new_trials import Proposals
from orchestrator.engine.reuse import warm_observations
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.results.across import compare_sweeps, side_of
from orchestrator.results.export import to_csv
from orchestrator.results.leaderboard_rows import leaderboard
from orchestrator.results.rung_audit import _curves
from orchestrator.results.studies import study_of
from orchestrator.search.curve import Curve
from orchestrator.search.rules.threshold import Threshold
from orchestrator.spec import read_spec
from orchestrator.tracking.tracker import MemoryTracker
from orchestrator.trials.scoring import At, best_of, score, scores
from tests.orchestrator import toy
from tests.orchestrator.example_sweep import record
from tests.orchestrator.simulation import drive, open_engine

CURVES = {0.1: (5.0, 1.0, 4.0), 0.4: (3.0, 3.0, 3.0), 0.6: (9.0, 2.0, 2.5), 0.9: (6.0, 6.0, 2.8)}
MEAN = {"mean_of_last": 2}
ENDS: dict[str, dict[float, float]] = {
    "last": {0.6: 2.5, 0.9: 2.8, 0.4: 3.0, 0.1: 4.0},
    "best": {0.1: 1.0, 0.6: 2.0, 0.9: 2.8, 0.4: 3.0},
    "mean": {0.6: 2.25, 0.1: 2.5, 0.4: 3.0, 0.9: 4.4},
}
"""By what each is judged in the end, best first."""


class Bumpy(toy.Curve):
    """Its metric goes down and up again."""

    def evaluate(self) -> dict[str, float]:
        return {"loss": CURVES[self.config["x"]][self.step // 30 - 1], "size": float(self.step)}


def content(at: Any = None, name: str = "bumpy", **more: Any) -> dict[str, Any]:
    metric = {"name": "loss"} if at is None else {"name": "loss", "at": MEAN if at == "mean" else at}
    given = toy.grid(name, tuple(CURVES), metric=metric, select="observed", on_duplicate="run", **more)
    return {**given, "trainer": f"{__name__}:Bumpy"}


def ran(home: Path, at: Any = None, **more: Any) -> Engine:
    engine = open_engine(Home(home), content(at, **more))
    drive(engine)
    engine.finish()
    return engine


@pytest.mark.parametrize("at", ["last", "best", "mean"])
def test_every_reader_of_the_record_judges_alike(at: str, tmp_path: Path) -> None:
    engine = ran(tmp_path, at)
    ledger, spec, trials = engine.ledger, engine.spec, engine.ledger.trials()
    ends = ENDS[at]
    rows = leaderboard(spec, trials)
    assert {row.config["x"]: row.metric for row in rows} == ends
    assert [row.config["x"] for row in rows] == list(ends)
    assert [row.metrics["loss"] for row in rows] == list(ends.values())
    assert list(leaderboard_frame(spec, rows)["loss"]) == list(ends.values())
    frame = trials_frame(spec, trials)
    assert dict(zip(frame["x"], frame["loss"], strict=True)) == ends
    written = list(csv.DictReader(io.StringIO(to_csv(spec, trials))))
    assert {float(row["x"]): float(row["loss"]) for row in written} == ends
    study = study_of(spec, trials)
    assert {trial.params["x"]: trial.value for trial in study.trials} == ends
    assert study.best_trial.intermediate_values == dict(zip((30, 60, 90), CURVES[next(iter(ends))], strict=True))
    natively = {row.user_attrs["trial"]["values"]["x"]: row.values[0] for row in ledger._studies.rows()}
    assert natively == ends
    seen = Proposals(ledger, {}).observations([*ledger.histories()])
    assert {found.values["x"]: found.metrics for found in seen} == {x: (value,) for x, value in ends.items()}
    assert {found.values["x"]: found.reports[90] for found in seen} == ends
    assert warm_observations(Home(tmp_path), toy.spec(content(at, "other", warm_start=["bumpy"])))[0].metrics in (
        [{"loss": ends[x]} for x in CURVES]
    )
    early = Curves(ledger, lambda: {})._curves
    assert {trial.values["x"]: early[trial.id].values[-1] for trial in trials} == ends
    assert {trial.values["x"]: _curves(spec, trials)[trial.id].values[-1] for trial in trials} == ends
    found = winner(ledger)
    assert (found.evidence["trial"], found.evidence["value"]) == (rows[0].trial, next(iter(ends.values())))
    assert found.evidence.get("at", "last") == spec.metric.at.to_json()


def test_at_a_rung_the_reports_up_to_there_count(tmp_path: Path) -> None:
    for at, expected in {"best": (5.0, 1.0, 1.0), "mean": (5.0, 3.0, 2.5), "last": (5.0, 1.0, 4.0)}.items():
        ledger = ran(tmp_path / at, at).ledger
        (curve,) = (c for n, c in Curves(ledger, lambda: {})._curves.items() if ledger.trial(n).values["x"] == 0.1)
        assert tuple(curve.values) == expected
        assert curve.reported == [5.0, 1.0, 4.0]


def test_the_best_report_has_its_step_its_checkpoint_and_its_other_metrics(tmp_path: Path) -> None:
    record = next(trial for trial in ran(tmp_path, "best").ledger.trials() if trial.values["x"] == 0.1)
    assert (record.steps, record.judged_step, record.judged["size"]) == (90, 60, 60.0)
    assert record.checkpoint is not None
    assert record.checkpoint.endswith("step-60")


def test_a_sweep_ends_at_its_target_by_what_it_judges(tmp_path: Path) -> None:
    for at, reached in {"last": True, "best": True, "mean": False}.items():
        engine = ran(tmp_path / at, at)
        metric = {"name": "loss", "target": 1.5, "at": MEAN if at == "mean" else at}
        spec = toy.spec({**content(at), "metric": metric})
        assert reached_target(spec, engine.ledger.histories()) is reached


def test_what_is_judged_cannot_change_once_trials_have_been_ranked(tmp_path: Path) -> None:
    ledger = ran(tmp_path).ledger
    with pytest.raises(ConfigError) as error:
        edits.revised(ledger, control.edit(toy.spec(content("best"))))
    assert [problem.key for problem in error.value.problems] == ["metrics"]
    assert edits.revised(ledger, control.edit(toy.spec(content("last")))).spec.metric.at == At()


def test_sweeps_that_judge_differently_are_not_compared(tmp_path: Path) -> None:
    sides = [side_of(ran(tmp_path, at, name=name).ledger) for name, at in (("a", None), ("b", "best"))]
    with pytest.raises(ConfigError, match="best report"):
        compare_sweeps(sides)
    path = [reached.value for reached in side_of(ran(tmp_path, "mean", name="c").ledger).path]
    assert path == [5.0, 3.0, 2.5, 2.25]


def test_mlflow_has_what_a_trial_was_judged_by_where_that_is_not_its_last_report() -> None:
    for at, shown in {"best": {90: 1.0}, "last": None}.items():
        tracker = MemoryTracker()
        tracker.sweep_started(toy.spec(content(at)), {})
        tracker.trial_ended(record("0", 1.0, steps=90, values={"x": 0.1}))
        assert tracker.runs["0"].metrics.get("trial/score") == shown


def test_a_threshold_looks_at_each_report_itself() -> None:
    curve = Curve(0, 90)
    for step, value in ((30, 1.0), (60, 9.0)):
        curve.add(step, value, step)
        curve.values[-1] = 1.0
    assert Threshold(upper=5.0).reason_to_stop("minimize", {"0": curve}, "0") is not None


def test_scores_are_what_their_definition_says() -> None:
    reports = {1: 4.0, 3: 7.0, 4: math.inf, 6: 2.0, 9: 5.0}
    steps = list(reports)
    for at in (At(), At(best=True), At(mean_of_last=2), At(mean_of_last=3), At(mean_of_last=9)):
        for goal in ("minimize", "maximize"):
            found = scores(reports, at, goal)
            for end in range(1, len(steps) + 1):
                values = [reports[step] for step in steps[:end]]
                assert found[steps[end - 1]] == score(values, at, goal)
    finite = [value for value in reports.values() if math.isfinite(value)]
    assert scores(reports, At(best=True), "minimize")[9] == min(finite)
    assert scores(reports, At(best=True), "maximize")[9] == max(finite)
    assert scores(reports, At(mean_of_last=2), "minimize")[9] == 3.5
    assert best_of([3.0, 1.0, 1.0], "minimize") == 1


@pytest.mark.parametrize(
    ("given", "key", "said", "close"),
    [
        ("bset", "metric.at", "last, best or {mean_of_last: 3}", "best"),
        ("mean", "metric.at", "last, best or {mean_of_last: 3}", "{mean_of_last: 3}"),
        ("{mean_of_lst: 3}", "metric.at.mean_of_lst", "unknown key", "mean_of_last"),
        ("{mean_of_last: 0}", "metric.at.mean_of_last", "1 <= mean_of_last", None),
        ("{mean_of_last: 1.5}", "metric.at.mean_of_last", "whole number", None),
        ("{mean_of_last: }", "metric.at", "empty", None),
        ("3", "metric.at", "last, best", None),
    ],
)
def test_a_wrong_word_is_told_with_its_place_and_the_nearest(
    given: str, key: str, said: str, close: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.yaml"
    rest = "base: {}\nmethod: random\nrun_cap: 2\nparameters: {optimizer.lr: {values: [0.1, 0.2]}}\n"
    file.write_text(f"{rest}metric:\n  name: eval/fid_1nfe\n  at: {given}\n")
    with pytest.raises(ConfigError) as error:
        read_spec(file)
    (problem,) = error.value.problems
    assert (problem.key, problem.line, problem.nearest) == (key, 7, close)
    assert said in problem.rule


def test_several_metrics_are_those_of_one_report() -> None:
    metrics = [{"name": "loss", "at": "best"}, {"name": "size", "goal": "maximize"}]
    with pytest.raises(ConfigError) as error:
        toy.spec({**toy.sweep(metric=None), "metrics": metrics})
    assert [problem.key for problem in error.value.problems] == ["metrics.0.at"]


def test_a_ledger_from_before_there_was_a_choice_judges_by_the_last_report() -> None:
    assert At.from_json(None) == At.from_json("last") == At()
    for at in (At(), At(best=True), At(mean_of_last=4)):
        assert At.from_json(at.to_json()) == at


def test_a_reopened_ledger_judges_as_before(tmp_path: Path) -> None:
    engine = ran(tmp_path, "mean")
    engine.ledger.close()
    again = Ledger.open(engine.paths)
    assert {trial.values["x"]: trial.metric for trial in again.trials()} == ENDS["mean"]
