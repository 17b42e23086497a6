"""Commands from another shell, with and without a driver; editing and extending a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.engine import control, edits, mailbox
from orchestrator.engine.engine import Engine
from orchestrator.engine.start import resume_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home, SweepPaths
from orchestrator.trials.protocol import Assignment, Decision, Done, Outcome, Report, Wait
from orchestrator.trials.trial import TrialRecord, TrialState
from tests.orchestrator import toy
from tests.orchestrator.simulation import Killed, Killer, Trace, drive, essence, open_engine, read, run


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = open_engine(home, toy.sweep(run_cap=4))
    with engine.ledger:
        yield engine


def work_of(engine: Engine) -> Assignment:
    work = engine.next()
    assert isinstance(work, Assignment), work
    return work


def at(step: int, loss: float = 1.0) -> Report:
    return Report(step=step, metrics={"loss": loss, "size": 1.0}, seconds=1.0)


def states(trials: list[TrialRecord]) -> list[str]:
    return [trial.state.value for trial in trials]


def ask(engine: Engine, command: dict[str, Any]) -> frozenset[str]:
    """Ask the driver as another process would, and let it look into its mailbox."""
    said = control.request(engine.paths, command)
    assert "asked the driver" in said
    assert command.get("trial", "") in said
    return engine.poll()


# ---------------------------------------------------------------------------------------- with a driver


def test_stop_lets_trials_come_to_their_next_report_and_a_resume_goes_on(home: Home, engine: Engine) -> None:
    work_of(engine)
    ask(engine, control.stop())
    assert isinstance(engine.next(), Wait)
    assert engine.report("0", at(30)) is Decision.PAUSE
    engine.ended("0", Outcome(kind="stopped"))
    assert isinstance(engine.next(), Done)
    engine.finish()
    engine.ledger.close()
    assert Ledger.open(engine.paths).state().state == "stopped"
    assert states(run(home, toy.sweep())) == ["finished"] * 4


@pytest.mark.parametrize("command", [control.stop(), control.pause(), control.pause_trial("0")])
def test_a_trial_that_comes_to_no_report_is_ended_after_a_while(home: Home, command: dict[str, Any]) -> None:
    now = [0.0]
    engine = open_engine(home, toy.sweep(), clock=lambda: now[0])
    with engine.ledger:
        work_of(engine)
        work_of(engine)
        for trial in ("0", "1"):
            engine.report(trial, replace(at(30), seconds=100.0))
        now[0] += 1000.0  # a long stretch of one that nobody has asked to leave
        assert engine.poll() == frozenset()
        assert ask(engine, command) == frozenset()
        now[0] += 199.0  # twice the longest stretch is not over
        assert engine.poll() == frozenset()
        engine.report("1", at(60))
        now[0] += 2.0
        assert engine.poll() == {"0"}
        engine.ended("0", Outcome(kind="stopped"))
        record = engine.ledger.trial("0")
        assert record.state is (TrialState.PAUSED if command.get("trial") else TrialState.WAITING)
        assert list(record.reports) == [30]


def test_who_goes_on_after_a_pause_is_not_overdue(home: Home) -> None:
    now = [0.0]
    engine = open_engine(home, toy.sweep(), clock=lambda: now[0])
    with engine.ledger:
        work_of(engine)
        ask(engine, control.pause())
        now[0] += 100.0
        ask(engine, control.resume())
        now[0] += 1000.0
        assert engine.poll() == frozenset()
        assert engine.report("0", at(30)) is Decision.CONTINUE
        ask(engine, control.pause())
        now[0] += 119.0
        assert engine.poll() == frozenset()
        now[0] += 2.0
        assert engine.poll() == {"0"}


def test_pause_frees_the_workers_and_the_driver_waits_for_resume(engine: Engine) -> None:
    work_of(engine)
    ask(engine, control.pause())
    assert engine.report("0", at(30)) is Decision.PAUSE
    engine.ended("0", Outcome(kind="stopped"))
    assert engine.next() == Wait(reason="the sweep is paused")
    assert Ledger.open(engine.paths).state().state == "paused"
    ask(engine, control.resume())
    assert work_of(engine).trial == "0"
    assert Ledger.open(engine.paths).state().state == "running"


def test_one_trial_is_stopped_at_once_and_for_good(engine: Engine) -> None:
    work_of(engine)
    work_of(engine)
    assert ask(engine, control.stop_trial("1")) == {"1"}
    engine.ended("1", Outcome(kind="stopped"))
    assert engine.report("0", at(30)) is Decision.CONTINUE
    record = engine.ledger.trial("1")
    assert (record.state, record.reason) == (TrialState.PRUNED, "stopped by hand")
    assert [work_of(engine).trial for _ in range(2)] == ["2", "3"]


def test_a_trial_that_waits_is_stopped_and_the_tracker_hears_of_it(home: Home) -> None:
    from orchestrator.tracking.tracker import MemoryTracker

    tracker = MemoryTracker()
    engine = open_engine(home, toy.sweep(), tracker=lambda _: tracker)
    with engine.ledger:
        work_of(engine)
        engine.ended("0", Outcome(kind="lost", reason="node"))
        assert ask(engine, control.stop_trial("0")) == frozenset()
        assert engine.ledger.trial("0").state is TrialState.PRUNED
        assert (tracker.runs["0"].status, tracker.runs["0"].tags["meansweep.state"]) == ("KILLED", "pruned")


def test_one_trial_is_paused_at_its_next_report_until_it_is_retried(engine: Engine) -> None:
    work_of(engine)
    assert ask(engine, control.pause_trial("0")) == frozenset()
    assert engine.report("0", at(30)) is Decision.PAUSE
    engine.ended("0", Outcome(kind="stopped"))
    assert engine.ledger.trial("0").state is TrialState.PAUSED
    assert work_of(engine).trial == "1"
    ask(engine, control.retry_trial("0"))
    assert work_of(engine).trial == "0"


def test_a_trial_that_failed_is_retried_while_the_sweep_runs(engine: Engine) -> None:
    work_of(engine)
    engine.report("0", at(30))
    engine.ended("0", Outcome(kind="bug", reason="ValueError: no"))
    assert engine.ledger.trial("0").state is TrialState.FAILED
    ask(engine, control.retry_trial("0"))
    work = work_of(engine)
    assert (work.trial, work.attempt) == ("0", 1)
    engine.report("0", at(90))
    record = engine.ledger.trial("0")
    assert record.state is TrialState.FINISHED
    assert list(record.reports) == [30, 90]
    assert [failure.kind for failure in record.attempts] == ["bug"]


def test_a_running_sweep_is_extended(engine: Engine) -> None:
    for _ in range(4):
        work_of(engine)
    assert isinstance(engine.next(), Wait)
    ask(engine, control.extend(2))
    assert [work_of(engine).trial for _ in range(2)] == ["4", "5"]
    assert engine.ledger.trial("4").revision == 1
    assert isinstance(engine.next(), Wait)


def test_a_command_to_a_driver_that_has_died_means_nothing_to_the_next_one(home: Home, engine: Engine) -> None:
    control.request(engine.paths, control.stop())
    control.request(engine.paths, control.extend(1))
    engine.ledger.close()
    assert len(run(home, toy.sweep())) == 5  # not stopped, but extended


def test_a_command_is_carried_out_though_the_driver_is_killed_over_it(home: Home, engine: Engine) -> None:
    control.request(engine.paths, control.extend(1))
    for command in mailbox.take(engine.paths):
        assert command["trials"] == 1
        break  # killed before it asked for the next
    engine.ledger.close()
    assert len(run(home, toy.sweep())) == 5


def test_commands_are_taken_in_their_order_though_the_date_jumps_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for date, more in ((2_000, 1), (1_000, 2), (3_000, 3), (2_500, 4)):
        monkeypatch.setattr("time.time_ns", lambda date=date: date)
        mailbox.post(engine.paths, control.extend(more))
    assert [command["trials"] for command in mailbox.take(engine.paths)] == [1, 2, 3, 4]


def test_an_unreadable_command_is_dropped(engine: Engine) -> None:
    engine.paths.mailbox.mkdir(parents=True, exist_ok=True)
    (engine.paths.mailbox / "0.json").write_text("{")
    assert engine.poll() == frozenset()
    assert list(engine.paths.mailbox.glob("*.json")) == []


def test_an_extension_is_not_counted_twice_though_the_driver_is_killed_after_it(home: Home, engine: Engine) -> None:
    control.request(engine.paths, control.extend(1))
    for command in mailbox.take(engine.paths):
        engine._obey(command)
        break  # killed before the command is deleted
    engine.ledger.close()
    assert len(run(home, toy.sweep())) == 5
    control.request(engine.paths, control.extend(1))
    assert len(run(home, toy.sweep())) == 6  # another one, though it reads the same


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (control.stop_trial("7"), "there is no such trial"),
        (control.extend(0), "at least one trial"),
        ({"command": "dance"}, "is none"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_before_it_is_posted(
    engine: Engine, command: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigError, match=error):
        control.request(engine.paths, command)
    assert not list(engine.paths.mailbox.glob("*.json"))


def test_a_trial_that_runs_is_not_taken_up_again(engine: Engine) -> None:
    trial = work_of(engine).trial
    with pytest.raises(ConfigError, match="is running"):
        control.request(engine.paths, control.retry_trial(trial))


# -------------------------------------------------------------------------------------- without a driver


def test_a_finished_sweep_is_extended_and_goes_on_where_its_search_stood(home: Home) -> None:
    whole = run(Home(home.root / "whole"), toy.sweep(method="tpe", run_cap=9))
    run(home, toy.sweep(method="tpe", run_cap=6))
    # a longer run_cap lets the model wait longer, so equal draws need equal startup: 4 in both
    assert control.request(home.sweep("toy"), control.extend(3)) == (
        "revision 1: run_cap: 6 -> 9; `meansweep resume toy` runs what is to be run"
    )
    assert Ledger.open(home.sweep("toy")).state().state == "stopped"
    trials = run(home, toy.sweep())
    assert [row[:-1] for row in essence(trials)] == [row[:-1] for row in essence(whole)]
    assert [trial.revision for trial in trials] == [0] * 6 + [1] * 3


def test_a_sweep_that_has_ended_is_not_stopped_and_stays_finished(home: Home) -> None:
    run(home, toy.sweep(run_cap=2))
    for command in (control.stop(), control.pause()):
        with pytest.raises(ConfigError, match="has ended already: finished"):
            control.request(home.sweep("toy"), command)
    assert Ledger.open(home.sweep("toy")).state().state == "finished"


def test_a_grid_cannot_be_extended_and_says_why(home: Home) -> None:
    run(home, toy.grid(x=(0.1,)))
    with pytest.raises(ConfigError, match="no run_cap to add to; its grid ends it"):
        control.request(home.sweep("toy"), control.extend(1))


def test_a_trial_that_is_retried_has_all_its_retries_again(home: Home) -> None:
    from orchestrator.trials.failures import LOST_LIMIT

    engine = open_engine(home, toy.sweep(run_cap=1, retries=1))
    with engine.ledger:
        for kind, times in (("infrastructure", 2), ("lost", LOST_LIMIT + 1)):
            for _ in range(times):
                assert engine.ledger.trials() == [] or not engine.ledger.trial("0").state.ended
                work_of(engine)
                engine.ended("0", Outcome(kind=kind, reason="gone"))  # type: ignore[arg-type]
            assert engine.ledger.trial("0").state is TrialState.FAILED
            control.apply(engine.ledger, control.retry_failed())
        assert len(engine.ledger.trial("0").attempts) == LOST_LIMIT + 3


def test_retry_failed_takes_up_what_can_be_mended_and_leaves_what_diverged(home: Home) -> None:
    run(home, toy.grid("memory", x=(0.1, 0.6), **toy.trained("OutOfMemory")))
    assert control.request(home.sweep("memory"), control.retry_failed()).startswith("nothing to retry (1 diverged or")
    run(home, toy.grid(x=(0.1, 0.4, 0.6), **toy.trained("Diverging")))
    message = control.request(home.sweep("toy"), control.retry_failed())
    assert message == "nothing to retry (1 diverged or out of memory: `trial retry ID` retries one of them)"
    assert control.request(home.sweep("toy"), control.retry_trial("2")).startswith("trial 2 starts again; ")
    trace = Trace()
    trials = run(home, toy.grid(), trace=trace)
    assert trace.handed == [("2", 0)]
    assert [attempt.kind for attempt in trials[2].attempts] == ["diverged"] * 2
    assert len(trials) == 3


def test_a_trial_stopped_early_goes_on_from_its_checkpoint_and_is_not_judged_again(home: Home) -> None:
    asha = {"type": "asha", "min_iter": 30, "eta": 2}  # at step 60, too, it is the worse of the two
    trials = run(home, toy.grid(x=(0.9, 0.0), early_terminate=asha))
    assert states(trials) == ["finished", "pruned"]
    assert trials[1].steps == 30
    with pytest.raises(ConfigError, match="has finished"):
        control.request(home.sweep("toy"), control.retry_trial("0"))
    control.request(home.sweep("toy"), control.retry_trial("1"))
    trace = Trace()
    trials = run(home, toy.grid(), trace=trace)
    assert trace.handed == [("1", 30)]
    assert states(trials) == ["finished", "finished"]
    assert list(trials[1].reports) == [30, 60, 90]


@pytest.mark.parametrize(("kind", "kept"), [("Buggy", True), ("Diverging", False)], ids=["goes on", "starts again"])
def test_what_ran_in_another_environment_stays_labelled_as_long_as_its_reports_count(
    home: Home, kind: str, kept: bool
) -> None:
    content = toy.grid(x=(0.1, 0.6), **toy.trained(kind, bug_from=0.6))
    for device, expected in (("cpu", 0), ("gpu", 2), ("cpu", 1)):
        engine = open_engine(home, content, device=device)
        with engine.ledger:
            if expected:
                drive(engine)
                engine.finish()
        if expected == 2:
            assert [trial.labels["drift"] for trial in read(home)] == [["the device type: cpu -> gpu"]] * 2
            control.request(home.sweep("toy"), control.retry_trial("1"))
    assert read(home)[1].state is TrialState.FAILED
    assert ("drift" in read(home)[1].labels) is kept


def test_a_trial_taken_up_again_survives_kills_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = Killer(monkeypatch)
    content = toy.grid(x=(0.1, 0.4, 0.6), **toy.trained("Buggy", bug_from=0.6))

    def prepared(folder: str) -> Home:
        home = Home(tmp_path / folder)
        killer.arm(None)
        run(home, content)
        control.request(home.sweep("toy"), control.retry_failed())
        killer.arm(None)
        return home

    expected = essence(run(prepared("whole"), content))
    for at_write in range(1, killer.count + 1):
        home = prepared(str(at_write))
        killer.arm(at_write, "within")
        engine = None
        try:
            engine = resume_sweep(home, "toy")
            drive(engine)
            engine.finish()
        except Killed:
            killer.arm(None)
        finally:
            if engine is not None:
                engine.ledger.close()
        assert essence(run(home, content)) == expected


def test_stop_and_pause_without_a_driver(home: Home) -> None:
    engine = open_engine(home, toy.sweep())
    work_of(engine)
    engine.ledger.close()
    assert control.request(engine.paths, control.pause()).startswith("no driver is running")
    control.request(engine.paths, control.stop())
    assert Ledger.open(engine.paths).state().state == "stopped"
    control.request(engine.paths, control.stop_trial("0"))
    assert states(read(home)) == ["pruned"]


# ------------------------------------------------------------------------------------------------ edits


def edited(home: Home, content: dict[str, Any]) -> str:
    return control.request(home.sweep("toy"), control.edit(toy.spec(content)))


def test_an_edit_says_what_differs_and_marks_the_trials_that_follow(home: Home) -> None:
    run(home, toy.sweep(run_cap=3))
    parameters = {"x": {"min": 0.0, "max": 0.2}, "y": {"values": [0.1, 0.4, 0.7]}}
    old = read(home)
    outside = [trial.id for trial in old if trial.values["x"] > 0.2]
    message = edited(home, toy.sweep(run_cap=5, parameters=parameters))
    assert message.startswith(
        "revision 1: parameters.x.max: 1.0 -> 0.2; run_cap: 3 -> 5; "
        f"outside the new search space, ranked but not used by the search: trials {', '.join(outside)}"
    )
    trials = run(home, toy.sweep())
    assert essence(trials[:3]) == essence(old)
    assert all(trial.values["x"] <= 0.2 and trial.revision == 1 for trial in trials[3:])
    assert len(trials) == 5


def test_the_same_file_again_changes_nothing(home: Home) -> None:
    run(home, toy.sweep(run_cap=2))
    assert edited(home, toy.sweep(run_cap=2)) == "nothing has changed"
    assert Ledger.open(home.sweep("toy")).revision == 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"metric": {"name": "size", "goal": "minimize"}}, "metrics: cannot change"),
        ({"metric": {"name": "loss", "goal": "maximize"}}, "metrics: cannot change"),
        ({"seed": 5}, "seed: cannot change from 0"),
        ({"warm_start": ["toy"], "method": "tpe"}, "warm_start: cannot change from .*has learned from it"),
        ({"method": "pbt"}, "method: cannot change from 'random'"),
        (toy.trained("Slow"), "trainer: cannot change"),
        (toy.trained("Curve", y=0.9), None),  # y is swept: its base does not matter
        (toy.trained("Curve", trainer={"steps": 120, "eval_every": 30}), "differs in more than the swept keys"),
        ({"set": {"z": 3}}, "differs in more than the swept keys"),
        ({"early_terminate": {"type": "median"}, "retries": 5, "budget": {"trials": 9}}, None),
        ({"method": "tpe"}, None),
    ],
)
def test_an_edit_that_would_falsify_what_is_recorded_is_refused(
    home: Home, changes: dict[str, Any], error: str | None
) -> None:
    run(home, toy.sweep(run_cap=2))
    if error is None:
        edited(home, toy.sweep(run_cap=3, **changes))
        assert len(run(home, toy.sweep())) == 3
    else:
        with pytest.raises(ConfigError, match=error):
            edited(home, toy.sweep(run_cap=3, **changes))
        assert Ledger.open(home.sweep("toy")).revision == 0


def test_a_file_older_than_an_extension_does_not_take_it_back_and_another_number_does(home: Home) -> None:
    run(home, toy.sweep(run_cap=2, budget={"trials": 9}))
    control.request(home.sweep("toy"), control.extend(3))
    control.request(home.sweep("toy"), control.extend(1))
    said = edited(home, toy.sweep(run_cap=2, budget={"trials": 9}, retries=5))
    assert said.startswith("revision 3: retries: - -> 5; run_cap stays 6: the file's 2, as before, and 4 by `extend`")
    assert "budget.trials stays 13" in said
    again = edited(home, toy.sweep(run_cap=2, budget={"trials": 9}, retries=5))
    assert again.startswith("nothing has changed; run_cap stays 6")
    spec = Ledger.open(home.sweep("toy")).spec()
    assert (spec.run_cap, spec.budget.trials, spec.retries) == (6, 13, 5)
    assert len(run(home, toy.sweep())) == 6
    assert "run_cap: 6 -> 3" in edited(home, toy.sweep(run_cap=3, budget={"trials": 9}, retries=5))
    assert Ledger.open(home.sweep("toy")).spec().budget.trials == 13
    assert "run_cap: 3 -> 2" in edited(home, toy.sweep(run_cap=2, budget={"trials": 9}, retries=5))


def test_a_file_that_names_the_extended_number_has_it_for_its_own(home: Home) -> None:
    run(home, toy.sweep(run_cap=2))
    control.request(home.sweep("toy"), control.extend(3))
    assert "run_cap: 5 is the file's own number now" in edited(home, toy.sweep(run_cap=5))
    assert "run_cap: 5 -> 2" in edited(home, toy.sweep(run_cap=2))


def test_edited_resources_count_from_the_next_driver_on_and_the_edit_says_so(home: Home, engine: Engine) -> None:
    edits_to = toy.sweep(run_cap=4, resources={"cpu": 2, "gpu": 0.5})
    assert "from the next driver on" in edits.revised(engine.ledger, control.edit(toy.spec(edits_to))).notes[0]
    first = work_of(engine)
    ask(engine, control.edit(toy.spec(edits_to)))
    assert engine.spec.resources.cpu == 2
    assert work_of(engine).resources == first.resources == {"cpu": 1.0, "gpu": 0.0, "custom": {}}
    engine.finish("for the test")
    engine.ledger.close()
    with (engine := open_engine(home, toy.sweep())).ledger:
        assert [work_of(engine).resources["gpu"] for _ in range(3)] == [0.5] * 3  # also those of the last driver


def test_before_the_first_trial_anything_but_the_name_may_change(home: Home) -> None:
    open_engine(home, toy.sweep()).ledger.close()
    edited(home, toy.sweep(seed=9, metric={"name": "size", "goal": "maximize"}, **toy.trained("Slow", nap=0)))
    assert [trial.seed for trial in run(home, toy.sweep())] == [9] * 6
    with pytest.raises(ConfigError, match="it is the sweep's folder"):
        edited(home, toy.sweep("other"))


def test_the_copy_of_the_sweep_file_is_the_sweep_as_it_is_now(home: Home) -> None:
    from meanflow_core.config.yaml_file import read_yaml

    run(home, toy.sweep(run_cap=2))
    assert read_yaml(home.sweep("toy").spec).content["run_cap"] == 2
    control.request(home.sweep("toy"), control.extend(3))
    assert read_yaml(home.sweep("toy").spec).content["run_cap"] == 5


def test_an_edited_grid_runs_what_is_new_in_it(home: Home) -> None:
    run(home, toy.grid(x=(0.1, 0.4)))
    edited(home, toy.grid(x=(0.05, 0.1, 0.4, 0.8)))
    assert [trial.values["x"] for trial in run(home, toy.grid())] == [0.1, 0.4, 0.05, 0.8]


NARROWER = toy.sweep(run_cap=4, parameters={"x": {"min": 0.0, "max": 0.4}, "y": {"values": [0.1, 0.4, 0.7]}})
CHANGES = {"extend": control.extend(2), "edit": control.edit(toy.spec(NARROWER)), "retry": control.retry_failed()}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_and_what_follows_survive_a_kill_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    killer = Killer(monkeypatch)
    trainer = toy.trained("Buggy", bug_from=0.84) if kind == "retry" else {}

    def prepared(folder: str) -> SweepPaths:
        killer.arm(None)
        run(Home(tmp_path / folder), toy.sweep(run_cap=2, **trainer))
        killer.arm(None)
        return Home(tmp_path / folder).sweep("toy")

    def go_on(paths: SweepPaths) -> None:
        """What a user does: asks for the change unless it is there, and resumes unless all is done."""
        before = Ledger.open(paths)
        last = before.trial("1")
        done = before.revision if kind != "retry" else last.state is not TrialState.FAILED or len(last.attempts) > 1
        if not done:
            control.request(paths, CHANGES[kind])
        now = Ledger.open(paths)
        if now.state().state == "finished" and all(trial.state.ended for trial in now.trials()):
            return  # `meansweep resume` has nothing to do
        engine = resume_sweep(Home(paths.root.parents[1]), "toy")
        with engine.ledger:
            drive(engine)
            engine.finish()

    whole = prepared("whole")
    assert states(Ledger.open(whole).trials()) == (["finished", "failed"] if kind == "retry" else ["finished"] * 2)
    go_on(whole)
    writes, expected = killer.count, essence(Ledger.open(whole).trials())
    assert writes > 5
    for kill, how in zip(range(1, writes + 1), itertools.cycle(("before", "within", "after"))):
        paths = prepared(str(kill))
        killer.arm(kill, how)
        with pytest.raises(Killed):
            go_on(paths)
        killer.arm(None)
        go_on(paths)
        assert Ledger.open(paths).state().state == "finished"
        assert essence(Ledger.open(paths).trials()) == expected, (kill, how)
