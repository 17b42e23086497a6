"""The engine's decisions: order of work, failures by class, budgets, replicates, what other sweeps know."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.engine import control
from orchestrator.engine.engine import Engine
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.results.sweep_status import Waste, standing, status_of
from orchestrator.trials.failures import LOST_LIMIT, bug_hash, goes_on
from orchestrator.trials.protocol import Assignment, Decision, Done, Outcome, Report, Wait
from orchestrator.trials.trial import TrialState
from tests.orchestrator import toy
from tests.orchestrator.simulation import Clock, Trace, drive, essence, open_engine, read, run

Start = Callable[..., Engine]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(home: Home, clock: Clock) -> Iterator[Start]:
    """Return a function that starts a sweep of this content, or goes on with it after closing the one before."""
    with ExitStack() as stack:
        last: list[Engine] = []

        def open_one(content: dict[str, Any], **options: Any) -> Engine:
            if last:
                last.pop().ledger.close()
            try:
                engine = resume_sweep(home, content["name"], clock=clock, **options)
            except LedgerError:
                engine = start_sweep(home, toy.spec(content), clock=clock, **options)
            last.append(engine)
            stack.callback(engine.ledger.close)
            return engine

        yield open_one


def work_of(engine: Engine) -> Assignment:
    work = engine.next()
    assert isinstance(work, Assignment), work
    return work


def at(step: int, loss: float = 1.0, seconds: float = 1.0, **more: Any) -> Report:
    return Report(step=step, metrics={"loss": loss, "size": 1.0}, seconds=seconds, **more)


# ------------------------------------------------------------------------------------------- order of work


def test_interrupted_trials_come_first_then_retries_then_new_ones(start: Start) -> None:
    content = toy.sweep(run_cap=5)
    engine = start(content)
    for _ in range(3):
        work_of(engine)
    engine.ended("1", Outcome(kind="infrastructure", reason="disk"))
    engine = start(content)
    assert [work_of(engine).trial for _ in range(4)] == ["0", "1", "2", "3"]
    assert engine.live == {"0", "1", "2", "3"}


def test_no_more_trials_are_out_than_max_concurrent_also_after_a_resume(start: Start) -> None:
    content = toy.sweep(run_cap=9, max_concurrent=2)
    for _ in range(2):
        engine = start(content)
        assert [work_of(engine).trial for _ in range(2)] == ["0", "1"]
        assert isinstance(engine.next(), Wait)
    engine.ended("0", Outcome(kind="bug", reason="b"))
    assert work_of(engine).trial == "2"


def test_when_the_last_trials_run_there_is_nothing_to_do_but_wait(start: Start) -> None:
    engine = start(toy.sweep(run_cap=1))
    work = work_of(engine)
    assert isinstance(engine.next(), Wait)
    for step in work.steps:
        engine.report("0", at(step))
    engine.ended("0", Outcome(kind="finished"))
    assert engine.next() == Done(reason="")


def test_a_trial_ends_with_its_last_report_and_not_before(start: Start) -> None:
    engine = start(toy.sweep(run_cap=1))
    work_of(engine)
    assert engine.report("0", at(89)) is Decision.CONTINUE
    assert engine.ledger.trial("0").state is TrialState.RUNNING
    assert engine.report("0", at(90)) is Decision.STOP
    assert engine.ledger.trial("0").state is TrialState.FINISHED


def test_a_trainer_that_ends_before_its_last_report_has_a_bug(start: Start) -> None:
    engine = start(toy.sweep(run_cap=1))
    work_of(engine)
    engine.report("0", at(30))
    engine.ended("0", Outcome(kind="finished"))
    failure = engine.ledger.trial("0").failure
    assert failure is not None
    assert failure.reason == "the trainer came to its end at step 30 of 90"


def test_a_report_from_a_trial_that_is_not_out_is_refused(start: Start) -> None:
    engine = start(toy.sweep(run_cap=2))
    work_of(engine)
    engine.ended("0", Outcome(kind="lost", reason="node"))
    assert engine.report("0", at(30)) is Decision.STOP
    assert engine.ledger.trial("0").reports == {}


def test_an_event_that_cannot_be_recorded_has_no_effect(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(toy.sweep(run_cap=2))

    def full(*_: Any, **__: Any) -> None:
        raise LedgerError("full")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.ledger.journal.Journal.append_logs", full)
        with pytest.raises(LedgerError):
            engine.next()
    assert engine.ledger.trials() == []
    assert work_of(engine).trial == "0"


# ----------------------------------------------------------------------------------------------- failures


def test_a_lost_node_costs_no_retry_but_not_forever(start: Start) -> None:
    engine = start(toy.sweep(run_cap=1, retries=0))
    for attempt in range(LOST_LIMIT + 1):
        assert work_of(engine).attempt == attempt
        engine.ended("0", Outcome(kind="lost", reason="node 3 is gone"))
    assert isinstance(engine.next(), Done)
    assert engine.ledger.trial("0").state is TrialState.FAILED


@pytest.mark.parametrize(("charged", "again"), [(1, True), (2, True), (3, False)])
def test_infrastructure_is_retried_as_often_as_allowed(charged: int, again: bool) -> None:
    assert goes_on("infrastructure", charged=charged, lost=0, retries=2) == again


@pytest.mark.parametrize("kind", ["diverged", "oom", "bug"])
def test_what_would_happen_again_is_not_retried(kind: Any) -> None:
    assert not goes_on(kind, charged=0, lost=0, retries=9)


def test_the_search_is_told_of_what_the_configuration_did_and_of_nothing_else(start: Start) -> None:
    kinds = ("diverged", "oom", "bug", "infrastructure")
    engine = start(toy.sweep(method="tpe", run_cap=5, retries=0))
    for kind in kinds:
        engine.ended(work_of(engine).trial, Outcome(kind=kind, reason=kind))
    proposals = engine._proposals
    told = proposals.observations(proposals.searched())
    assert [(seen.state, seen.bad) for seen in told] == [(TrialState.FAILED, bad) for bad in (True, True, False, False)]
    shown = proposals._search.recorded(told)
    assert [trial.params["x"] for trial in shown] == [seen.values["x"] for seen in told if seen.bad]


def test_a_damaged_checkpoint_is_not_tried_twice(start: Start, tmp_path: Path) -> None:
    engine = start(toy.sweep(run_cap=1))
    work_of(engine)
    for step in (30, 60):
        (tmp_path / f"c{step}").mkdir()
        engine.report("0", at(step, checkpoint=str(tmp_path / f"c{step}")))
    engine.ended("0", Outcome(kind="lost", reason="node"))
    starts = []
    for _ in range(3):
        starts.append(work_of(engine).start)
        engine.ended("0", Outcome(kind="infrastructure", reason="CheckpointError: c is damaged"))
    assert starts == [60, 30, 0]


def test_the_work_of_a_failed_run_since_its_last_report_is_waste(start: Start, clock: Clock) -> None:
    engine = start(toy.sweep(run_cap=1, resources={"cpu": 1, "gpu": 0.5}))
    work_of(engine)
    clock.now += 12
    engine.report("0", at(30, seconds=10))
    clock.now += 7
    engine.ended("0", Outcome(kind="lost", reason="node"))
    trial = engine.ledger.trial("0")
    assert (trial.busy_seconds, trial.wasted_seconds, trial.gpu_seconds) == (19.0, 9.0, 9.5)
    assert engine.status().waste == Waste(lost_seconds=9.0, failed_seconds=0.0, gpu_hours=pytest.approx(4.5 / 3600))


def test_what_a_killed_driver_had_not_recorded_is_waste_as_far_as_it_is_known(start: Start, clock: Clock) -> None:
    content = toy.sweep(run_cap=3, resources={"gpu": 0.5})
    engine = start(content)
    work_of(engine)
    work_of(engine)
    clock.now += 10
    engine.report("0", at(30, seconds=10))
    clock.now += 25
    engine.report("1", at(30, seconds=35))  # the last sign of life: 25 s after the report of trial 0
    engine = start(content)
    assert [trial.wasted_seconds for trial in engine.ledger.trials()] == [25.0, 0.0]
    assert [trial.reason for trial in engine.ledger.trials()] == ["its driver was killed"] * 2
    assert engine.ledger.trial("0").gpu_seconds == 17.5
    assert start(content).ledger.trial("0").wasted_seconds == 25.0  # once


def test_work_that_an_interruption_throws_away_is_waste_and_a_pause_throws_none_away(
    start: Start, clock: Clock
) -> None:
    engine = start(toy.sweep(run_cap=2))
    work_of(engine)
    work_of(engine)
    clock.now += 5  # until a worker is there
    engine.report("0", at(30, seconds=3))
    clock.now += 4
    engine.finish("interrupted by a signal")
    assert [trial.wasted_seconds for trial in engine.ledger.trials()] == [4.0, 9.0]
    engine = start(toy.sweep(run_cap=2))
    work_of(engine)
    engine.hold(True)
    clock.now += 2
    assert engine.report("0", at(60, seconds=2)) is Decision.PAUSE
    clock.now += 1
    engine.ended("0", Outcome(kind="stopped"))
    assert engine.ledger.trial("0").wasted_seconds == 4.0


def test_equal_bugs_are_known_by_where_they_were_raised() -> None:
    text = 'Traceback (most recent call last):\n  File "{}", line {}, in train\n    x\nValueError: {}\n'
    assert bug_hash(text.format("a.py", 3, "x is 1")) == bug_hash(text.format("a.py", 3, "x is 2"))
    assert bug_hash(text.format("a.py", 3, "x")) != bug_hash(text.format("a.py", 4, "x"))
    assert bug_hash(text.format("a.py", 3, "x")) != bug_hash(text.format("a.py", 3, "x").replace("Value", "Type"))


def fail(engine: Engine, line: int) -> None:
    trace = f'  File "a.py", line {line}, in train\nValueError: no\n'
    engine.ended(work_of(engine).trial, Outcome(kind="bug", reason="ValueError: no", traceback=trace))


def test_the_third_equal_bug_stops_a_sweep_in_which_nothing_has_worked(start: Start) -> None:
    engine = start(toy.sweep(run_cap=30))
    fail(engine, 1)
    fail(engine, 2)  # another bug
    fail(engine, 1)
    fail(engine, 1)
    done = engine.next()
    assert isinstance(done, Done)
    assert done.failed
    engine.finish()
    state = engine.ledger.state()
    assert state.state == "failed"
    assert "line 1" in (state.traceback or "")


def test_after_something_has_worked_bugs_stop_nothing(start: Start) -> None:
    engine = start(toy.sweep(run_cap=30))
    work_of(engine)
    engine.report("0", at(90))
    engine.ended("0", Outcome(kind="finished"))
    for _ in range(5):
        fail(engine, 1)
    assert isinstance(engine.next(), Assignment)


def test_a_result_of_another_sweep_does_not_prove_that_the_code_runs(home: Home) -> None:
    settings = {"bug_from": 0.5, "x": 0.1}
    run(home, toy.grid("first", x=(0.1,), **toy.trained("Buggy", **settings)))
    trials = run(home, toy.grid(x=(0.1, 0.6, 0.7, 0.8, 0.9), **toy.trained("Buggy", **settings)))
    assert trials[0].labels == {"reused": "first/0"}
    assert [trial.state.value for trial in trials[1:]] == ["failed"] * 3  # and not a fourth


def test_a_sweep_that_was_stopped_by_its_bug_goes_on_when_that_is_mended(home: Home) -> None:
    broken = toy.sweep(run_cap=5, **toy.trained("Buggy"))
    assert [trial.state.value for trial in run(home, broken)] == ["failed"] * 3
    from orchestrator.engine.control import request, retry_failed

    request(home.sweep("toy"), retry_failed())
    engine = resume_sweep(home, "toy")
    with engine.ledger:
        done = drive(engine, seconds=1.0)
    assert done.failed  # still there: it is noticed again


# ---------------------------------------------------------------------------------------------- budgets


def test_the_gpu_budget_is_summed_over_crashes_and_retries(start: Start, clock: Clock) -> None:
    content = toy.sweep(run_cap=9, resources={"gpu": 1}, budget={"gpu_hours": 100 / 3600})
    engine = start(content)
    work_of(engine)
    clock.now += 40
    engine.report("0", at(30, seconds=40))
    engine = start(content)  # as after a kill
    clock.now += 500  # nothing runs
    work_of(engine)
    clock.now += 30
    engine.ended("0", Outcome(kind="lost", reason="node"))
    work_of(engine)
    clock.now += 29
    assert engine.report("0", at(30, seconds=29)) is Decision.CONTINUE  # repeated work costs too
    clock.now += 1
    assert engine.report("0", at(60, seconds=1)) is Decision.PAUSE
    engine.ended("0", Outcome(kind="stopped"))
    assert engine.next() == Done(reason="budget.gpu_hours is 0.0277778, used 0.0278")
    engine.finish()
    assert engine.ledger.state().state == "finished"
    assert engine.ledger.trial("0").state is TrialState.WAITING
    assert isinstance(start(content).next(), Done)  # it is still spent


def test_work_in_flight_counts_against_the_budget(start: Start, clock: Clock) -> None:
    engine = start(toy.sweep(run_cap=9, resources={"gpu": 0.5}, budget={"gpu_hours": 10 / 3600}))
    work_of(engine)
    work_of(engine)
    clock.now += 9.9
    assert isinstance(engine.next(), Assignment)
    clock.now += 0.1
    assert isinstance(engine.next(), Wait)
    assert engine.halted is not None


@pytest.mark.parametrize(("seconds", "spent"), [(99, False), (100, True), (101, True)])
def test_the_wall_clock_counts_only_while_a_driver_runs(
    start: Start, clock: Clock, seconds: float, spent: bool
) -> None:
    content = toy.sweep(run_cap=9, budget={"wall_clock": 100})
    engine = start(content)
    work_of(engine)
    clock.now += 60
    engine.report("0", at(30))
    clock.now += 5000  # killed, and started again much later
    engine.ledger.close()
    clock.now = 3.0  # by a machine whose clock shows something else
    engine = start(content)
    clock.now += seconds - 60
    assert isinstance(engine.next(), Done if spent else Assignment)


def test_a_clock_that_jumps_back_spends_nothing_negative(start: Start, clock: Clock) -> None:
    engine = start(toy.sweep(run_cap=2, resources={"gpu": 1}))
    work_of(engine)
    clock.now -= 5000
    engine.report("0", at(30, seconds=-4000.0))
    engine.ended("0", Outcome(kind="lost", reason="node"))
    budget = engine.status().budget
    assert budget["gpu_hours"].used == 0
    assert budget["wall_clock"].used == 0


def test_a_date_that_jumps_to_and_fro_changes_no_decision_no_budget_and_no_time(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = toy.sweep(
        run_cap=8, early_terminate={"type": "asha", "min_iter": 10, "eta": 3}, replicates={"top": 1, "seeds": 1},
        resources={"gpu": 0.5}, budget={"wall_clock": 3600, "gpu_hours": 1},
    )  # fmt: skip

    def outcome(home: Home) -> tuple[Any, ...]:
        clock = Clock()
        for _ in range(2):  # two drivers, the first of which is stopped by hand
            engine = open_engine(home, content, clock=clock)
            with engine.ledger:
                drive(engine, clock=clock, seconds=3.0, on_report=lambda engine, work, report: stop_at_fifth(engine))
                status = engine.finish()
                trials = engine.ledger.trials()
        times = [(trial.busy_seconds, trial.gpu_seconds, trial.wasted_seconds) for trial in trials]
        return essence(trials), times, status.budget, status.state

    def stop_at_fifth(engine: Engine) -> None:
        if len(engine.ledger.sessions()) == 1 and engine.wall() >= 15.0:
            engine.halt("stopped", "by hand")

    expected = outcome(Home(tmp_path / "steady"))
    assert expected[3] == "finished"
    date, jumps = [1.8e9], itertools.cycle([30 * 86400.0, -70 * 86400.0, 0.25, 40 * 86400.0])

    def jumping() -> float:
        date[0] += next(jumps)
        return date[0]

    monkeypatch.setattr("time.time", jumping)
    assert outcome(home) == expected


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_no_more_trials_are_started_than_the_budget_has(home: Home, trials: int) -> None:
    assert len(run(home, toy.sweep(run_cap=9, budget={"trials": trials}))) == trials


def test_replicates_and_reused_results_count_against_the_budget_of_trials(home: Home) -> None:
    run(home, toy.grid("first", x=(0.1, 0.2)))
    content = toy.grid(x=(0.2, 0.3, 0.1), replicates={"top": 1, "seeds": 4}, budget={"trials": 3})
    assert [trial.id for trial in run(home, content)] == ["0", "1", "2"]  # the last one is known already
    content = toy.grid("longer", x=(0.2, 0.3, 0.1), replicates={"top": 1, "seeds": 4}, budget={"trials": 5})
    assert [trial.id for trial in run(home, content)] == ["0", "1", "1.1", "1.2", "2"]


def test_the_clock_is_recorded_though_nothing_happens(start: Start, clock: Clock) -> None:
    engine = start(toy.sweep(run_cap=1))
    work_of(engine)
    clock.now += 59
    engine.poll()
    assert Ledger.open(engine.paths).wall_seconds == 0
    clock.now += 1
    engine.poll()
    assert Ledger.open(engine.paths).wall_seconds == 60


def test_without_a_gpu_no_gpu_time_is_counted(start: Start, clock: Clock) -> None:
    engine = start(toy.sweep(run_cap=1, resources={"gpu": 1}), resources={"cpu": 1.0, "gpu": 0.0})
    assert work_of(engine).resources == {"cpu": 1.0, "gpu": 0.0, "custom": {}}
    engine.report("0", at(30, seconds=10))
    assert engine.ledger.trial("0").gpu_seconds == 0
    assert engine.ledger.trial("0").busy_seconds == 10


@pytest.mark.parametrize(("loss", "ends"), [(0.51, False), (0.5, True), (0.49, True)])
def test_no_new_trial_starts_once_the_target_is_reached(start: Start, loss: float, ends: bool) -> None:
    engine = start(toy.sweep(run_cap=9, metric={"name": "loss", "goal": "minimize", "target": 0.5}))
    work_of(engine)
    assert engine.report("0", at(30, loss)) is Decision.CONTINUE  # the trial itself goes on
    assert isinstance(engine.next(), Wait if ends else Assignment)


def test_with_several_metrics_one_trial_must_reach_the_targets_of_all(start: Start) -> None:
    metrics = [
        {"name": "loss", "goal": "minimize", "target": 0.5},
        {"name": "size", "goal": "maximize", "target": 0.8},
    ]
    engine = start(toy.sweep(run_cap=9, method="nsga2", metric=None, metrics=metrics))
    for loss, size in ((0.4, 0.7), (0.6, 0.9)):
        work = work_of(engine)
        engine.report(work.trial, Report(step=30, metrics={"loss": loss, "size": size}))
    assert work_of(engine).trial == "2"
    engine.report("2", Report(step=30, metrics={"loss": 0.5, "size": 0.8}))
    assert isinstance(engine.next(), Wait)


# --------------------------------------------------------------------------------------------- replicates


def test_replicates_share_their_seeds_across_configurations(home: Home) -> None:
    trials = run(home, toy.sweep(run_cap=4, seed=7, replicates={"top": 2, "seeds": 2}))
    again = [trial for trial in trials if trial.replicate]
    assert sorted((trial.replicate, trial.seed) for trial in again) == [(1, 8), (1, 8), (2, 9), (2, 9)]
    assert len({trial.config_id for trial in again}) == 2
    assert all(trial.seed == 7 for trial in trials if not trial.replicate)


def race(start: Start, losses: dict[int, Callable[[int], float]], **rule: Any) -> dict[int, int]:
    """Run a race whose configuration c has `losses[c](seed)`; the seeds that each got."""
    content = toy.grid(x=(0.1, 0.2, 0.3), replicates={"top": 3, "seeds": 8, "race": True, **rule})
    engine = start(content)
    while isinstance(work := engine.next(), Assignment):
        trial = engine.ledger.trial(work.trial)
        engine.report(work.trial, at(90, losses[trial.config_id](trial.seed)))
        engine.ended(work.trial, Outcome(kind="finished"))
    counts = dict.fromkeys(losses, 0)
    for trial in engine.ledger.trials():
        counts[trial.config_id] += 1
    return counts


def test_a_race_gives_more_seeds_only_to_what_is_still_tied_with_the_best(start: Start) -> None:
    def noise(seed: int) -> float:
        return 1 + 0.01 * ((seed * 7) % 5)

    def other(seed: int) -> float:
        return 1 + 0.01 * ((seed * 3 + 1) % 5)

    counts = race(start, {0: noise, 1: other, 2: lambda seed: 5 + noise(seed) + 0.001 * seed})
    assert counts[0] == counts[1] == 9  # these two cannot be told apart: all 8 seeds
    assert counts[2] == 2  # two pairs show the third to be worse


def test_a_configuration_of_which_a_seed_collapsed_leaves_the_race(start: Start) -> None:
    def noise(seed: int) -> float:
        return 1 + 0.01 * ((seed * 7) % 5)

    def collapsing(seed: int) -> float:
        return 40.0 if seed == 2 else noise(seed) - 0.02 * seed

    # After a collapse no paired test can tell the two apart: it would go on to the last seed.
    counts = race(start, {0: collapsing, 1: noise, 2: lambda seed: 5 + noise(seed) + 0.001 * seed})
    assert counts == {0: 3, 1: 3, 2: 2}


def test_a_race_ends_when_one_is_left(start: Start) -> None:
    counts = race(start, {c: lambda seed, c=c: c + 0.01 * ((seed * (c + 2)) % 7) for c in range(3)})
    assert sum(counts.values()) < 15


def test_replicates_are_not_stopped_early_and_not_shown_to_the_search(home: Home) -> None:
    content = toy.sweep(
        method="tpe", run_cap=6, early_terminate={"type": "asha", "min_iter": 10, "eta": 3},
        replicates={"top": 1, "seeds": 3}, parameters={"x": {"min": 0.0, "max": 1.0}},
    )  # fmt: skip
    found = []
    for place, seeds in ((home, 3), (Home(home.root / "other"), 1)):
        told = {**content, "replicates": {"top": 1, "seeds": seeds}}
        run(place, told)
        control.request(place.sweep("toy"), control.extend(8))  # now the search goes on, and the replicates are there
        found.append(run(place, told))
    trials, plain = found
    searched = [trial for trial in trials if not trial.replicate]
    assert len(searched) == 14
    assert essence(searched) == essence([trial for trial in plain if not trial.replicate])
    assert all(list(trial.reports)[-1] == 90 for trial in trials if trial.replicate)


# ------------------------------------------------------------------------------------------- other sweeps


def test_a_configuration_that_finished_in_another_sweep_is_reused(home: Home) -> None:
    first = run(home, toy.grid("first", x=(0.1, 0.2)))
    trace = Trace()
    second = run(home, toy.grid("second", x=(0.2, 0.3)), trace=trace)
    assert [trial for trial, _ in trace.handed] == ["1"]
    assert second[0].labels == {"reused": "first/1"}
    assert second[0].reports == first[1].reports
    assert second[0].busy_seconds == 0
    third = run(home, toy.grid("third", x=(0.2,)))
    assert third[0].labels == {"reused": "first/1"}  # where it was trained


def test_a_configuration_that_finished_in_another_sweep_is_skipped_or_run_again_on_demand(home: Home) -> None:
    run(home, toy.grid("first", x=(0.1, 0.2)))
    skipping = run(home, toy.grid("skipping", x=(0.2, 0.3), on_duplicate="skip"))
    assert [trial.values for trial in skipping] == [{"x": 0.3}]
    running = run(home, toy.grid("running", x=(0.2,), on_duplicate="run"))
    assert running[0].labels == {}
    assert running[0].busy_seconds > 0


def test_results_of_other_code_or_data_are_not_reused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run(home, toy.grid("first", x=(0.1,)))
    monkeypatch.setattr("orchestrator.engine.environment_check.code_version", lambda trainer: "other")
    assert run(home, toy.grid("second", x=(0.1,)))[0].labels == {}


def test_results_from_another_environment_or_with_copied_weights_are_not_reused(home: Home) -> None:
    marks = {
        "0": ("drift", ["torch: 2.12 -> 2.13"]),
        "1": ("lineage", [{"step": 30, "donor": "2", "values": {"x": 0.2}}]),
    }

    def mark(engine: Engine, work: Assignment, report: Report) -> None:
        if report.step == 30 and work.trial in marks:
            engine.ledger.label(work.trial, *marks[work.trial])

    engine = start_sweep(home, toy.spec(toy.grid("first", x=(0.1, 0.2, 0.3))))
    with engine.ledger:
        drive(engine, on_report=mark)
        engine.finish()
    labels = [trial.labels for trial in run(home, toy.grid("second", x=(0.1, 0.2, 0.3)))]
    assert labels == [{}, {}, {"reused": "first/2"}]


def test_equal_configurations_within_a_sweep_are_drawn_again(home: Home) -> None:
    content = toy.sweep(run_cap=50, parameters={"x": {"values": [0.1, 0.2]}, "y": {"values": [0.1, 0.4, 0.7]}})
    trials = run(home, content)
    assert len({trial.config_hash for trial in trials}) == len(trials) == 6
    state = Ledger.open(home.sweep("toy")).state()
    assert (state.state, state.reason) == ("finished", "every combination has been tried")


def test_equal_configurations_are_repeated_on_purpose(home: Home) -> None:
    content = toy.sweep(run_cap=9, on_duplicate="run", parameters={"x": {"values": [0.1, 0.2]}})
    assert len(run(home, content)) == 9


def test_warm_start_shows_the_search_what_fits_its_space_conditions_included(home: Home) -> None:
    parameters = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0, "when": {"x": {"max": 0.5}}}}
    first = run(home, toy.sweep("first", run_cap=12, parameters={"x": {"min": 0.0, "max": 1.0}}))
    second = start_sweep(home, toy.spec(toy.sweep(method="tpe", warm_start=["first"], parameters=parameters)))
    with second.ledger:
        warm = second.ledger.warm()
    assert [seen.origin for seen in warm] == [f"first/{trial.id}" for trial in first]
    for seen, trial in zip(warm, first, strict=True):
        x = trial.values["x"]
        assert seen.values == ({"x": x, "y": 0.5} if x <= 0.5 else {"x": x})  # y as it was fixed there
        assert seen.metrics == {"loss": trial.metric}
    assert [seen.number for seen in second._proposals.observations([])] == [-1] * 12
    assert second.ledger.trials() == []


def test_warm_start_from_a_sweep_that_is_not_there_names_the_nearest(home: Home) -> None:
    run(home, toy.grid("first", x=(0.1,)))
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        start_sweep(home, toy.spec(toy.sweep(method="tpe", warm_start=["frist"])))
    assert not home.sweep("toy").root.exists()


def test_a_sweep_is_not_started_twice(home: Home) -> None:
    run(home, toy.grid(x=(0.1,)))
    with pytest.raises(ConfigError, match="meansweep extend N toy"):
        start_sweep(home, toy.spec(toy.grid(x=(0.1,))))


# -------------------------------------------------------------------------------------------- environment


def test_what_runs_in_another_environment_is_labelled_or_refused(
    start: Start, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = toy.sweep(run_cap=3)
    engine = start(content, device="cpu")
    work_of(engine)
    engine.report("0", at(90))
    engine.ended("0", Outcome(kind="finished"))
    work_of(engine)
    engine.ledger.close()
    with pytest.raises(ConfigError, match="the device type: cpu -> NVIDIA H100"):
        resume_sweep(home, "toy", strict=True, device="NVIDIA H100")
    engine = start(content, device="NVIDIA H100")
    work_of(engine)
    work_of(engine)
    drifted = ["the device type: cpu -> NVIDIA H100"]
    assert [trial.labels.get("drift") for trial in engine.ledger.trials()] == [None, drifted, drifted]


def test_what_only_a_worker_knows_is_recorded_the_first_time_and_compared_later(start: Start) -> None:
    content = toy.sweep(run_cap=4)
    engine = start(content)
    for _ in range(3):
        work_of(engine)
    engine.report("0", at(30, facts={"device": "cpu", "fingerprint": "abc"}))
    assert engine.ledger.environment()["device"] == "cpu"
    engine.report("1", at(30, facts={"device": "cuda", "fingerprint": "abd"}))
    engine = start(content)
    for _ in range(4):
        work_of(engine)
    engine.report("1", at(60, facts={"device": "cuda", "fingerprint": "abd"}))  # said once
    engine.report("2", at(30, facts={"device": "cpu", "fingerprint": "abc"}))
    drifted = ["the device type: cpu -> cuda", "the data's fingerprint: abc -> abd"]
    # only what ran there: the next one may get the first device again
    assert [t.labels.get("drift") for t in engine.ledger.trials()] == [None, drifted, None, None]


def test_strictly_a_worker_on_another_device_stops_the_sweep(start: Start, home: Home) -> None:
    engine = start(toy.sweep(run_cap=4))
    work_of(engine)
    engine.report("0", at(30, facts={"device": "cpu"}))
    engine.ledger.close()
    engine = resume_sweep(home, "toy", strict=True)
    with engine.ledger:
        work_of(engine)
        assert engine.report("0", at(60, facts={"device": "cuda"})) is Decision.PAUSE
        engine.ended("0", Outcome(kind="stopped"))
        assert engine.next() == Done(reason="--strict, and trial 0 differs: the device type: cpu -> cuda")
        assert engine.finish().state == "stopped"


def test_where_the_data_is_varied_its_fingerprint_is_no_drift(start: Start) -> None:
    content = toy.sweep(parameters={"data.size": {"values": [1, 2, 3]}})
    engine = start({**content, "base": {**content["base"], "data": {"size": 1}}})
    for mark in ("abc", "abd"):
        work = work_of(engine)
        engine.report(work.trial, at(30, facts={"fingerprint": mark}))
    assert [trial.labels for trial in engine.ledger.trials()] == [{}, {}]


def test_data_that_has_grown_is_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.engine.environment_check import described_data
    from orchestrator.spec.sweep import SweepSpec

    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "net.pt").touch()
    data = [{"data": {"name": "image_folder", "path": path}} for path in (str(tmp_path / "images"), "images")]
    features = [{"evaluation": {"features": path}} for path in ("net.pt", f"inception:{tmp_path / 'net.pt'}")]

    def described(base: dict[str, Any], **more: Any) -> str:
        metric = {"name": "loss", "goal": "minimize"}
        sweep = {
            "name": "s",
            "method": "random",
            "metric": metric,
            "run_cap": 1,
            "parameters": {"x": {"max": 1}},
            **more,
        }
        return described_data(SweepSpec.from_source({"sweep": sweep, "base": base}))

    known = {"parameters": {"optimizer.lr": {"min": 0.1, "max": 1.0}}}
    own = {"trainer": "tests.orchestrator.toy:Curve", "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    cases = [(base, more) for base in (*data, *features) for more in (known, own)]
    before = [described(base, **more) for base, more in cases]
    assert [described(base, **more) for base, more in cases] == before
    (tmp_path / "images" / "more.png").touch()
    (tmp_path / "net.pt").write_text("other weights")
    assert all(described(base, **more) != then for (base, more), then in zip(cases, before, strict=True))
    nothing = {"evaluation": {"features": "torch.nn:Flatten", "seed": 1}}
    assert described(nothing, **known) == described({}, **known)  # names no file


# ------------------------------------------------------------------------------------------- other things


def test_several_metrics_are_searched_without_early_stopping(home: Home) -> None:
    metrics = [{"name": "loss", "goal": "minimize"}, {"name": "size", "goal": "maximize"}]
    trials = run(home, toy.sweep(method="nsga2", run_cap=10, metric=None, metrics=metrics))
    assert all(trial.state is TrialState.FINISHED for trial in trials)
    assert all(trial.metric == trial.reports[90]["loss"] for trial in trials)


def test_the_tracker_hears_of_everything_and_of_no_trial_twice(start: Start) -> None:
    from orchestrator.tracking.tracker import MemoryTracker

    tracker = MemoryTracker()
    engine = start(
        toy.grid(x=(0.1, 0.9), early_terminate={"type": "asha", "min_iter": 30, "eta": 3}), tracker=lambda _: tracker
    )
    drive(engine)
    engine.finish()
    runs = tracker.runs
    assert set(runs) == {"sweep", "0", "1"}
    assert sorted(run.status for run in runs.values()) == ["FINISHED"] * 3
    for trial in engine.ledger.trials():
        shown = runs[trial.id].metrics
        assert shown["loss"] == {step: metrics["loss"] for step, metrics in trial.reports.items()}
        assert list(shown["train/loss"]) == [30, 60, 90]  # a row of training comes with a report and is nowhere else


def test_the_status_of_a_sweep_whose_driver_died_says_so(start: Start) -> None:
    engine = start(toy.sweep(run_cap=3))
    work_of(engine)
    assert [trial.state for trial in standing(Ledger.open(engine.paths))] == [TrialState.RUNNING]
    engine.ledger.close()
    assert [trial.state for trial in standing(Ledger.open(engine.paths))] == [TrialState.WAITING]
    status = status_of(Ledger.open(engine.paths))
    assert status.state == "interrupted"
    assert status.counts["waiting"] == 1
    assert status.counts["running"] == 0


def test_a_sweep_in_which_everything_failed_has_failed(home: Home) -> None:
    run(home, toy.sweep(run_cap=2, **toy.trained("Buggy")))
    state = Ledger.open(home.sweep("toy")).state()
    assert state.state == "failed"
    assert "every trial failed" in state.reason


def test_a_reader_sees_the_trials_while_they_run(start: Start, home: Home) -> None:
    engine = start(toy.sweep(run_cap=2))
    work_of(engine)
    engine.report("0", at(30, 0.25))
    assert [(trial.steps, trial.metric) for trial in read(home)] == [(30, 0.25)]
