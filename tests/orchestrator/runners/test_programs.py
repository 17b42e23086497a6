"""Sweeps of own programs, from their file to the winner's training, in this process; on Ray: test_ray_tune.py."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import run as command
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.spec.sweep import read_spec
from orchestrator.tracking.mlflow_store import Store, connect
from orchestrator.trials.trial import TrialState
from tests import ROOT
from tests.orchestrator.runners.program import PROGRAM, written

DRIVER = """
import sys
from pathlib import Path
from orchestrator.engine import start_sweep
from orchestrator.paths import Home
from orchestrator.runners import run_inline
from orchestrator.spec import read_spec
run_inline(start_sweep(Home(Path(sys.argv[1])), read_spec(sys.argv[2])))
"""


def ran(folder: Path, **changes: Any) -> Ledger:
    engine = start_sweep(Home(folder / "home"), read_spec(written(folder, **changes)))
    with engine.ledger:
        run_inline(engine)
    return Ledger.open(engine.paths)


def test_a_sweep_of_a_program_stops_early_and_repeats_the_best(tmp_path: Path) -> None:
    rule = {"type": "hyperband", "min_iter": 3, "eta": 2}
    ledger = ran(tmp_path, early_terminate=rule, replicates={"top": 1, "seeds": 2}, trainer={"steps": 9})
    found = {trial.id: trial for trial in ledger.trials()}
    assert [found[name].state.value for name in "0123"] == ["finished", "pruned", "pruned", "pruned"]
    assert [found[name].steps for name in "0123"] == [9, 3, 3, 3]
    assert {name: (trial.seed, trial.metric) for name, trial in found.items() if trial.config_id == 0} == {
        "0": (0, pytest.approx(1 / 9)),
        "0.1": (1, pytest.approx(1 / 9 + 1e-3)),
        "0.2": (2, pytest.approx(1 / 9 + 2e-3)),
    }
    assert ledger.state().state == "finished"


def test_a_promoted_program_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    rule = {"type": "asha", "min_iter": 3, "eta": 2, "promote": True, "audit": 0.0}
    ledger = ran(tmp_path, early_terminate=rule, trainer={"steps": 9}, set={"nap": 0.1})
    best = ledger.trial("0")
    assert (best.state, best.steps, sorted(best.reports)) == (TrialState.FINISHED, 9, list(range(1, 10)))
    assert best.reports[9]["began"] >= 3
    assert [trial.state.value for trial in ledger.trials()].count("finished") < 4


def test_a_program_that_fails_is_a_failed_trial_and_the_others_go_on(tmp_path: Path) -> None:
    ledger = ran(tmp_path, parameters={"x": {"values": [0.3, 0.97]}})
    good, bad = ledger.trials()
    assert (good.state, bad.state) == (TrialState.FINISHED, TrialState.FAILED)
    assert bad.failure is not None
    assert bad.failure.kind == "bug"
    assert bad.failure.reason.splitlines()[0].endswith("exit code 1: AssertionError: x is too large")


@pytest.mark.parametrize("knows", [True, False])
def test_a_killed_driver_takes_its_program_along_and_nothing_is_lost(tmp_path: Path, knows: bool) -> None:
    text = PROGRAM if knows else PROGRAM.replace("if state.exists() else 0", "if False else 0")
    file = written(tmp_path, text, set={"nap": 0.1}, parameters={"x": {"values": [0.3, 0.5]}})
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path / "home"), str(file)], cwd=ROOT)
    paths = Home(tmp_path / "home").sweep("own")
    deadline = time.monotonic() + 60
    reports = paths.trial("0").root / "reports.jsonl"
    while not (reports.exists() and reports.read_text().count("\n") > 4):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    before = Ledger.open(paths).trials()[0].reports
    assert before
    time.sleep(0.5)
    size = reports.stat().st_size
    time.sleep(0.5)
    assert reports.stat().st_size == size  # the program is gone too
    engine = resume_sweep(Home(tmp_path / "home"), "own")
    with engine.ledger:
        run_inline(engine)
        trials = engine.ledger.trials()
    assert [(trial.state, sorted(trial.reports)) for trial in trials] == [(TrialState.FINISHED, list(range(1, 10)))] * 2
    assert {step: trials[0].reports[step] for step in before} == before
    assert (trials[0].reports[9]["began"] > 0) is knows


def test_an_unmodified_program_that_prints_json_from_its_file_to_the_winners_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path / "home"))
    text = (
        "import argparse, json\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', type=float)\n"
        "lr = parser.parse_args().lr\nprint('training')\nprint(json.dumps({'loss': (lr - 0.2) ** 2}))\n"
    )
    ledger = ran(
        tmp_path, text=text, trainer={"metrics": "stdout-json"}, parameters={"lr": {"values": [0.5, 0.2, 1.0]}}
    )
    assert [trial.metric for trial in ledger.trials()] == pytest.approx([0.09, 0.0, 0.64])
    for words in (["leaderboard"], ["status"], ["best", "-o", "best.yaml"], ["report", "-o", "report.html"]):
        assert command([*words]) == 0, capsys.readouterr()
    assert "train.py" in Path("best.yaml").read_text()
    capsys.readouterr()
    assert command(["train", "best.yaml", "--json"]) == 0
    [again] = json.loads(capsys.readouterr().out)
    assert (again["name"], again["metrics"]) == ("own-1", {"loss": 0.0})
    assert command(["train", "best.yaml"]) == 0  # it is done: nothing is run again
    assert "--lr=0.2" in (tmp_path / "home/final/own-1/log.txt").read_text()
    assert (tmp_path / "home/final/own-1/log.txt").read_text().count("attempt") == 1
    assert command(["train", "best.yaml", "lr=0.5"]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_a_file_that_forgot_how_its_program_reports_is_edited_and_its_trials_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path / "home"))
    text = "import json, sys\nprint(json.dumps({'loss': float(sys.argv[1].split('=')[1])}))\n"
    two = {"x": {"values": [0.3, 0.5]}}
    engine = start_sweep(
        Home(tmp_path / "home"), read_spec(written(tmp_path, text, parameters=two, name=None), ["name=one"])
    )
    with engine.ledger:
        run_inline(engine)
        assert "stdout-json" in str(engine.ledger.trials()[0].failure)
    written(tmp_path, text, parameters=two, name=None, trainer={"metrics": "stdout-json"})
    assert command(["edit", "sweep.yaml", "one"]) == command(["retry", "--failed", "one"]) == 0, capsys.readouterr()
    engine = resume_sweep(Home(tmp_path / "home"), "one")
    with engine.ledger:
        run_inline(engine)
        assert [trial.metric for trial in engine.ledger.trials()] == [0.3, 0.5]


@pytest.mark.mlflow
def test_the_final_training_of_a_program_is_shown_and_goes_with_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSWEEP_HOME", str(home.root))
    ran(tmp_path, set={"nap": 0.05}, parameters={"x": {"values": [0.3, 0.5]}})
    assert command(["best", "own", "-o", "best.yaml"]) == command(["train", "best.yaml"]) == 0
    assert "reproduced the trial exactly at 9 steps up to 9" in capsys.readouterr().out
    client = connect(Store.of(home))
    [experiment] = [each for each in client.search_experiments() if each.name == "own"]
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["meansweep.kind"]) == ("final own-0", "FINISHED", "final")
    assert run.data.params["x"] == "0.3"
    curve = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss")}
    assert curve == pytest.approx({step: 1 / step for step in range(1, 10)})
    assert command(["report", "own", "-o", "report.html"]) == 0
    assert "final training own-0" in Path("report.html").read_text()
    assert command(["remove", "own", "--yes"]) == 0
    assert not home.final("own-0").exists()
    assert not client.search_runs([experiment.experiment_id])
