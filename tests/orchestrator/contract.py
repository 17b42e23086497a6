"""What every runner must do. A subclass gives the fixture `run_sweep`, and the same tests run on its runner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from meanflow_core.config.yaml_file import read_yaml
from orchestrator.engine.control import request, retry_failed
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home, SweepPaths
from orchestrator.results.sweep_status import Status
from orchestrator.trials.trial import TrialRecord, TrialState
from tests.orchestrator import toy


@dataclass
class Ran:
    """What came of one run of a runner."""

    status: Status
    paths: SweepPaths

    @property
    def trials(self) -> list[TrialRecord]:
        return Ledger.open(self.paths).trials()


RunSweep = Callable[..., Ran]


class RunnerContract:
    """Subclasses override `run_sweep`."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        return Home(tmp_path / "home")

    @pytest.fixture
    def run_sweep(self, home: Home) -> RunSweep:
        """Return `run(content) -> Ran`: starts the sweep of this content, or goes on with it, until it ends."""
        raise NotImplementedError

    def test_every_trial_of_a_grid_finishes_once_with_all_its_reports_its_configuration_and_its_log(
        self, run_sweep: RunSweep
    ) -> None:
        ran = run_sweep(toy.grid())
        assert [trial.values["x"] for trial in ran.trials] == [0.1, 0.4, 0.6, 0.9]
        assert all(trial.state is TrialState.FINISHED for trial in ran.trials)
        assert all(list(trial.reports) == [30, 60, 90] for trial in ran.trials)
        assert ran.status.state == "finished"
        assert ran.status.best is not None
        assert ran.status.best.config == {"x": 0.6}
        for trial in ran.trials:
            folder = ran.paths.trial(trial.id)
            config = read_yaml(folder.config).content
            assert config["x"] == trial.values["x"]
            assert config["seed"] == trial.seed
            assert "step 90" in folder.log.read_text()

    def test_what_is_reported_is_what_the_trainer_gives_when_run_alone(self, run_sweep: RunSweep) -> None:
        trials = run_sweep(toy.grid(x=(0.2, 0.8))).trials
        for trial in trials:
            alone = toy.Curve({"x": trial.values["x"], "y": 0.5, "seed": trial.seed})
            for step in (30, 60, 90):
                alone.train(30)
                assert trial.reports[step] == pytest.approx(alone.evaluate(), rel=1e-12)

    def test_asha_stops_the_worst_and_lets_the_best_finish(self, run_sweep: RunSweep) -> None:
        content = toy.grid(
            x=(0.3, 0.9, 0.0, 0.6, 0.8, 0.35), early_terminate={"type": "asha", "min_iter": 30, "eta": 2}
        )
        trials = run_sweep(content).trials
        assert {trial.state for trial in trials} == {TrialState.FINISHED, TrialState.PRUNED}
        stopped = [trial for trial in trials if trial.state is TrialState.PRUNED]
        assert all(trial.steps < 90 and trial.reason.startswith("asha") for trial in stopped)
        best = min(trials, key=lambda trial: trial.metric or math.inf)
        assert best.state is TrialState.FINISHED

    def test_with_promotion_a_trial_waits_at_its_rung_and_goes_on_from_its_checkpoint(
        self, run_sweep: RunSweep
    ) -> None:
        rule = {"type": "asha", "min_iter": 30, "eta": 2, "promote": True}
        trials = run_sweep(toy.grid(x=(0.9, 0.35, 0.0, 0.6), early_terminate=rule)).trials
        losses = sorted((trial.reports[30]["loss"], trial.id) for trial in trials)
        passed = {trial.id for trial in trials if trial.steps > 30}
        assert passed >= {trial for _, trial in losses[:2]}
        assert any(trial.state is TrialState.FINISHED for trial in trials)
        assert all(trial.reason.startswith("asha: place") for trial in trials if trial.state is TrialState.PRUNED)
        assert {trial.state for trial in trials} == {TrialState.FINISHED, TrialState.PRUNED}
        assert all(trial.wasted_seconds == 0 for trial in trials)
        for trial in trials:  # a trial that waited is as one that was never interrupted
            alone = toy.Curve({"x": trial.values["x"], "y": 0.5, "seed": trial.seed})
            for step in trial.reports:
                alone.train(step - alone.step)
                assert trial.reports[step] == pytest.approx(alone.evaluate(), rel=1e-12)

    def test_a_diverging_trial_fails_never_wins_and_stops_nobody(self, run_sweep: RunSweep) -> None:
        ran = run_sweep(toy.grid(**toy.trained("Diverging")))
        states = {trial.values["x"]: trial for trial in ran.trials}
        assert [states[x].state.value for x in (0.1, 0.4, 0.6, 0.9)] == ["finished", "finished", "failed", "failed"]
        failure = states[0.9].failure
        assert failure is not None
        assert failure.kind == "diverged"
        assert "loss is nan" in failure.reason
        assert states[0.9].steps == 30
        assert states[0.9].metric is None
        assert ran.status.best is not None
        assert ran.status.best.config == {"x": 0.4}

    def test_out_of_memory_is_told_from_a_bug(self, run_sweep: RunSweep) -> None:
        trials = run_sweep(toy.grid(**toy.trained("OutOfMemory"))).trials
        assert [trial.failure.kind if trial.failure else None for trial in trials] == [None, None, "oom", "oom"]

    def test_a_bug_of_every_trial_stops_the_sweep_with_its_traceback(self, run_sweep: RunSweep) -> None:
        ran = run_sweep(toy.sweep(run_cap=30, **toy.trained("Buggy")))
        assert ran.status.state == "failed"
        assert "this cannot work" in (ran.status.reason or "")
        assert len(ran.trials) < 10
        failure = ran.trials[0].failure
        assert failure is not None
        assert failure.kind == "bug"
        assert 'raise ValueError(f"this cannot work' in (failure.traceback or "")
        assert "this cannot work" in Path(failure.log or "").read_text()

    def test_a_bug_of_one_trial_leaves_the_others_alone_and_is_retried_when_it_is_gone(
        self, run_sweep: RunSweep, home: Home
    ) -> None:
        ran = run_sweep(toy.grid(**toy.trained("Buggy", bug_from=0.9)))
        assert [trial.state.value for trial in ran.trials] == ["finished"] * 3 + ["failed"]
        toy_home = home.sweep("toy")
        assert "goes on" in request(toy_home, retry_failed())
        again = run_sweep(toy.grid(**toy.trained("Buggy", bug_from=0.9)))
        last = again.trials[-1]
        assert last.state is TrialState.FAILED  # the bug is still there
        assert [attempt.attempt for attempt in last.attempts] == [0, 1]
        assert [trial.id for trial in again.trials] == ["0", "1", "2", "3"]

    def test_a_fault_of_the_machine_is_retried_from_the_checkpoint_until_the_retries_are_spent(
        self, run_sweep: RunSweep, tmp_path: Path
    ) -> None:
        settings = toy.trained("Flaky", faults=2, marks=str(tmp_path / "few"))
        trials = run_sweep(toy.grid("few", x=(0.2,), retries=2, **settings)).trials
        assert trials[0].state is TrialState.FINISHED
        assert [(attempt.kind, attempt.step) for attempt in trials[0].attempts] == [("infrastructure", 30)] * 2
        settings = toy.trained("Flaky", faults=3, marks=str(tmp_path / "many"))
        trials = run_sweep(toy.grid("many", x=(0.2,), retries=2, **settings)).trials
        assert trials[0].state is TrialState.FAILED
        assert len(trials[0].attempts) == 3

    def test_replicates_are_seeds_of_the_best_and_the_search_does_not_see_them(self, run_sweep: RunSweep) -> None:
        trials = run_sweep(toy.grid(replicates={"top": 2, "seeds": 2})).trials
        assert [trial.id for trial in trials] == ["0", "1", "1.1", "1.2", "2", "2.1", "2.2", "3"]
        assert [(trial.config_id, trial.seed) for trial in trials if trial.replicate] == [
            (1, 1),
            (1, 2),
            (2, 1),
            (2, 2),
        ]
        assert all(trial.state is TrialState.FINISHED for trial in trials)

    def test_going_on_with_a_finished_sweep_runs_nothing_again(self, run_sweep: RunSweep) -> None:
        before = run_sweep(toy.grid(x=(0.2, 0.8))).trials
        assert run_sweep(toy.grid(x=(0.2, 0.8))).trials == before

    def test_a_misnamed_metric_ends_the_sweep_with_the_names_there_are(self, run_sweep: RunSweep) -> None:
        ran = run_sweep(toy.grid(metric={"name": "los", "goal": "minimize"}))
        assert ran.status.state == "failed"
        assert "did you mean 'loss'" in (ran.status.reason or "")
