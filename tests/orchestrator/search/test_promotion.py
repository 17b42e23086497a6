"""Trials that wait at rungs: who is promoted when, and what becomes of the others."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import control
from orchestrator.engine.engine import Engine
from orchestrator.paths import Home
from orchestrator.search.curve import Curve
from orchestrator.search.rules.asha import Asha
from orchestrator.trials.protocol import Assignment, Decision, Done, Outcome, Report, Wait
from orchestrator.trials.trial import TrialRecord, TrialState
from tests.orchestrator import toy
from tests.orchestrator.simulation import Killed, Killer, Trace, drive, essence, open_engine, read, run

LENGTH, RUNGS = 90, (10, 30)
PROMOTE = {"type": "asha", "min_iter": 10, "eta": 3, "promote": True}


def rule(**changes: Any) -> Asha:
    return Asha(**({"min_iter": 10, "eta": 3, "promote": True} | changes))


def curve(number: int, *values: float) -> Curve:
    """A trial that has reported these values at its first rungs."""
    return Curve(number, LENGTH, RUNGS, [*RUNGS, LENGTH][: len(values)], list(values), [0] * len(values))


# --------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("steps", "passed", "rung"),
    [
        *(([9], 0, None), ([10], 0, 0), ([11], 0, 0), ([10], 10, None)),
        *(([10, 29], 10, None), ([10, 30], 10, 1), ([90], 0, None)),
    ],
)
def test_a_trial_stands_at_the_last_rung_that_it_has_reached_and_not_passed(
    steps: list[int], passed: int, rung: int | None
) -> None:
    reported = Curve(0, LENGTH, RUNGS, steps, [1.0] * len(steps), list(range(len(steps))))
    assert rule().held_at(reported, passed) == rung


def test_a_bracket_has_no_use_of_the_rungs_below_its_own() -> None:
    two = rule(brackets=2)
    assert two.held_at(curve(1, 5.0), 0) is None
    assert two.held_at(curve(1, 5.0, 4.0), 0) == 1
    assert two.held_at(curve(2, 5.0), 0) == 0


@pytest.mark.parametrize(
    ("there", "last", "first"), [(2, False, None), (3, False, "2"), (2, True, "1"), (1, True, "0")]
)
def test_one_in_eta_goes_on_rounded_down_and_up_once_no_new_trial_will_come(
    there: int, last: bool, first: str | None
) -> None:
    curves = {str(n): curve(n, 5.0 - n) for n in range(there)}
    assert rule().next_promotion("minimize", curves, dict.fromkeys(curves, 0), last=last) == first


def test_where_the_search_can_tell_the_trials_are_ranked_by_their_expected_ends() -> None:
    curves = {str(i): curve(i, float(i)) for i in range(6)}  # 0 has the best value at the rung
    held, forecast = dict.fromkeys(curves, 0), {number: -float(number) for number in range(5)}  # 5: not known
    assert rule().next_promotion("minimize", curves, held, last=False, forecast=forecast) == "4"
    assert rule().next_promotion("maximize", curves, held, last=False, forecast=forecast) == "5"
    assert rule().next_promotion("minimize", curves, held, last=False) == "0"


def test_who_was_promoted_before_keeps_its_place_among_the_best() -> None:
    curves = {str(n): curve(n, float(n)) for n in range(5)}
    held = dict.fromkeys(("1", "2", "3", "4"), 0)  # trial 0 has gone on
    assert rule().next_promotion("minimize", curves, held, last=False) is None
    curves |= {"5": curve(5, 9.0)}
    assert rule().next_promotion("minimize", curves, held | {"5": 0}, last=False) == "1"


def test_the_highest_rung_comes_first_and_maximise_turns_the_order_round() -> None:
    curves = {str(n): curve(n, 5.0 - n) for n in range(3)} | {str(n): curve(n, 1.0, n / 10) for n in range(3, 6)}
    held = {str(n): 0 if n < 3 else 1 for n in range(6)}
    assert rule().next_promotion("minimize", curves, held, last=False) == "3"
    assert rule().next_promotion("maximize", curves, held, last=False) == "5"
    assert rule().place("minimize", curves, "4", 1) == "asha: place 2 of 3 at step 30, the best 1/3 goes on"


def test_equal_values_go_on_in_the_order_of_their_numbers() -> None:
    curves = {str(n): curve(n, 1.0) for n in (2, 1, 0, 3)}
    assert rule().next_promotion("minimize", curves, dict.fromkeys(curves, 0), last=False) == "0"


def test_brackets_count_by_themselves() -> None:
    curves = {str(n): curve(n, value, value) for n, value in enumerate((1.0, 8.0, 2.0, 9.0))}
    held = dict.fromkeys(curves, 1)
    two = rule(brackets=2, eta=2)
    assert two.next_promotion("minimize", curves, held, last=False) == "0"
    assert two.next_promotion("minimize", curves, {"1": 1, "2": 1, "3": 1}, last=False) == "1"  # the best of its own
    assert two.next_promotion("minimize", curves, {"2": 1, "3": 1}, last=False) is None


# ------------------------------------------------------------------------------------------- the engine


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def content(**changes: Any) -> dict[str, Any]:
    return toy.sweep(**({"run_cap": 9, "early_terminate": PROMOTE} | changes))


def work_of(engine: Engine) -> Assignment:
    work = engine.next()
    assert isinstance(work, Assignment), work
    return work


def at(step: int, loss: float) -> Report:
    return Report(step=step, metrics={"loss": loss, "size": 1.0}, seconds=1.0)


def come_to(engine: Engine, work: Assignment, step: int, loss: float) -> bool:
    """Let a trial report; whether its worker keeps it."""
    if engine.report(work.trial, at(step, loss)) is Decision.CONTINUE:
        return True
    engine.ended(work.trial, Outcome(kind="stopped"))
    return False


def steps_and_states(trials: list[TrialRecord]) -> dict[str, tuple[int, str]]:
    return {trial.id: (trial.steps, trial.state.value) for trial in trials}


def test_a_trial_waits_at_its_rung_and_its_worker_takes_the_next_one(home: Home) -> None:
    engine = open_engine(home, content())
    with engine.ledger:
        first, second = work_of(engine), work_of(engine)
        assert not come_to(engine, first, 10, 2.0)
        record = engine.ledger.trial("0")
        assert (record.state, record.reason) == (TrialState.AT_RUNG, "waits at step 10 to be promoted")
        assert engine.status().counts.items() >= {"at-rung": 1, "running": 1, "waiting": 0}.items()
        third = work_of(engine)
        assert third.trial == "2"
        assert not come_to(engine, third, 10, 3.0)
        assert not come_to(engine, second, 10, 4.0)  # the third there, and one of three goes on:
        again = work_of(engine)  # the best, which waits, and not the one that has just come
        assert (again.trial, again.start, again.attempt) == ("0", 0, 1)
        assert again.steps == [10, 30, 60, 90]
        assert work_of(engine).trial == "3"


def test_a_worker_keeps_a_trial_that_would_be_the_next_to_go_on(home: Home) -> None:
    engine = open_engine(home, content())
    with engine.ledger:
        for loss in (4.0, 3.0):
            assert not come_to(engine, work_of(engine), 10, loss)
        best = work_of(engine)
        assert come_to(engine, best, 10, 2.0)
        assert engine.report("2", at(30, 1.0)) is Decision.PAUSE  # alone at the second rung
        assert engine.ledger.trial("2").attempts == ()


def test_who_was_let_on_goes_on_after_a_kill_though_others_are_better_by_now(home: Home) -> None:
    engine = open_engine(home, content())
    works = [work_of(engine) for _ in range(5)]
    for work, loss in zip(works[:2], (4.0, 3.0), strict=True):
        assert not come_to(engine, work, 10, loss)
    assert all(come_to(engine, work, 10, loss) for work, loss in zip(works[2:], (2.0, 1.5, 1.0), strict=True))
    engine.ledger.close()
    engine = open_engine(home, content())
    with engine.ledger:
        assert [work_of(engine).trial for _ in range(4)] == ["2", "3", "4", "5"]


def test_in_the_end_one_trial_at_least_is_trained_through_and_the_others_say_where_they_stood(home: Home) -> None:
    trials = run(home, content(run_cap=2, early_terminate={**PROMOTE, "eta": 4}))
    finished = [trial for trial in trials if trial.state is TrialState.FINISHED]
    assert len(finished) == 1
    (other,) = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert other.reason == "asha: place 2 of 2 at step 10, the best 1/4 goes on"
    assert other.reports[10]["loss"] > finished[0].reports[10]["loss"]
    assert read(home) == trials


def test_as_many_go_on_as_the_rule_says_and_the_best_of_them_all(home: Home) -> None:
    trials = run(home, content(run_cap=18))
    at_first = sorted(trials, key=lambda trial: trial.reports[10]["loss"])
    passed = [trial.id for trial in trials if trial.steps > 10]
    assert set(passed) >= {trial.id for trial in at_first[:6]}  # a third of 18, and those that were so on the way
    assert len(passed) <= 9
    second = sorted((trial for trial in trials if 30 in trial.reports), key=lambda trial: trial.reports[30]["loss"])
    assert {trial.id for trial in second[:2]} <= {t.id for t in trials if t.state is TrialState.FINISHED}


def test_replicates_begin_when_nobody_waits_at_a_rung_any_more_and_wait_at_none(home: Home) -> None:
    trials = run(home, content(run_cap=4, replicates={"top": 1, "seeds": 2}))
    again = [trial for trial in trials if trial.replicate]
    assert [list(trial.reports) for trial in again] == [[10, 30, 60, 90]] * 2
    assert not [trial for trial in trials if trial.state is TrialState.AT_RUNG]


BEST, OTHERS = (0.9, 0.8, 0.7), (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # by what they report at step 10, and at 30


def around(values: tuple[float, ...], name: str = "toy", **changes: Any) -> dict[str, Any]:
    return toy.grid(name, x=values, **({"early_terminate": PROMOTE} | changes))


def test_results_taken_over_have_their_places_at_the_rungs_and_nobody_worse_goes_on(home: Home) -> None:
    often = {**toy.grid()["base"], "trainer": {"steps": 90, "eval_every": 10}}
    run(home, around(BEST, "first", early_terminate=None, base=often))
    trace = Trace()
    trials = run(home, around((*BEST, *OTHERS)), trace=trace)
    assert [trial.labels.get("reused") for trial in trials] == ["first/0", "first/1", "first/2", *[None] * 6]
    assert [list(trial.reports) for trial in trials[:3]] == [list(range(10, 100, 10))] * 3
    assert [(trial.steps, trial.state.value) for trial in trials[3:]] == [(10, "pruned")] * 6
    assert trace.handed == [(str(number), 0) for number in range(3, 9)]


def test_results_without_a_report_at_a_rung_have_no_place_there_and_one_at_the_next(home: Home) -> None:
    run(home, around(BEST, "first", early_terminate=None))
    trials = run(home, around((*BEST, *OTHERS)))
    assert [list(trial.reports) for trial in trials[:3]] == [[30, 60, 90]] * 3
    at_second = [(trial.values["x"], trial.steps, trial.reason) for trial in trials[3:] if trial.steps > 10]
    assert at_second == [  # a third of six
        (0.6, 30, "asha: place 4 of 5 at step 30, the best 1/3 goes on"),
        (0.5, 30, "asha: place 5 of 5 at step 30, the best 1/3 goes on"),
    ]


def test_what_is_known_is_passed_over_as_if_it_were_not_in_the_space(home: Home, tmp_path: Path) -> None:
    alone = [row[1:] for row in essence(run(Home(tmp_path / "alone"), around(OTHERS)))]
    run(home, around(BEST, "first"))  # of these one is trained to its end, and only that is known
    trials = run(home, around((*BEST, *OTHERS), on_duplicate="skip"))
    (finished,) = [trial for trial in read(home, "first") if trial.state is TrialState.FINISHED]
    assert [trial.values["x"] for trial in trials] == [x for x in (*BEST, *OTHERS) if x != finished.values["x"]]
    run(home, around(BEST, "all", early_terminate=None))
    skipped = run(home, around((*BEST, *OTHERS), "second", on_duplicate="skip"))
    assert [row[1:] for row in essence(skipped)] == alone


@pytest.mark.parametrize("how", ["reuse", "skip"])
def test_promotion_beside_known_results_survives_a_kill_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    killer = Killer(monkeypatch)
    second = around((0.5, 0.1, 0.2, 0.45), early_terminate={**PROMOTE, "eta": 2}, on_duplicate=how)

    def prepared(folder: str) -> Home:
        killer.arm(None)
        run(Home(tmp_path / folder), around((0.5,), "first"))
        killer.arm(None)
        return Home(tmp_path / folder)

    expected = essence(run(prepared("whole"), second))
    writes = killer.count
    assert len(expected) == (4 if how == "reuse" else 3)
    for kill in range(1, writes + 1, 2):
        home = prepared(str(kill))
        killer.arm(kill, ("before", "within", "after")[kill % 3])
        with contextlib.suppress(Killed):
            engine = open_engine(home, second)
            with engine.ledger:
                drive(engine)
                engine.finish()
        killer.arm(None)
        assert essence(run(home, second)) == expected, kill


def test_a_sweep_that_is_extended_lets_those_go_on_that_were_left_behind(home: Home) -> None:
    short = run(home, content(run_cap=4))
    left = {trial.id for trial in short if trial.steps == 10}
    assert control.request(home.sweep("toy"), control.extend(14)).startswith("revision 1: run_cap: 4 -> 18")
    trace = Trace()
    trials = run(home, content(), trace=trace)
    passed = {trial.id for trial in trials if trial.steps > 10}
    best = sorted(trials, key=lambda trial: trial.reports[10]["loss"])[:6]
    assert passed >= {trial.id for trial in best}
    revived = left & passed
    assert revived  # of the first four, one was left at its rung and is among the best third of the eighteen
    assert {(trial, 10) for trial in revived} <= set(trace.handed)
    assert all(trial.state.ended for trial in trials)
    assert len(trials) == 18
    assert essence(run(home, content())) == essence(trials)


def test_an_edit_that_takes_the_promotion_back_lets_all_go_on(home: Home) -> None:
    engine = open_engine(home, content())
    with engine.ledger:
        for loss in (2.0, 3.0):
            come_to(engine, work_of(engine), 10, loss)
        control.apply(engine.ledger, control.edit(toy.spec(content(run_cap=2, early_terminate=None))))
    assert steps_and_states(run(home, content())) == {"0": (90, "finished"), "1": (90, "finished")}


def test_an_edit_to_promotion_takes_effect_from_the_next_rung_on(home: Home) -> None:
    engine = open_engine(home, content(early_terminate={**PROMOTE, "promote": False}))
    with engine.ledger:
        first = work_of(engine)
        assert come_to(engine, first, 10, 2.0)
        control.request(engine.paths, control.edit(toy.spec(content())))
        engine.poll()
        assert not come_to(engine, first, 30, 2.0)
        assert engine.ledger.trial("0").state is TrialState.AT_RUNG


def test_a_trial_at_a_rung_is_let_on_stopped_and_paused_by_hand(home: Home) -> None:
    engine = open_engine(home, content(run_cap=3))
    with engine.ledger:
        for loss in (2.0, 3.0, 4.0):
            come_to(engine, work_of(engine), 10, loss)
        control.apply(engine.ledger, control.stop_trial("0"))
        control.apply(engine.ledger, control.pause_trial("1"))
        assert control.apply(engine.ledger, control.retry_trial("2")) == "trial 2 goes on"
    assert steps_and_states(run(home, content())) == {"0": (10, "pruned"), "1": (10, "paused"), "2": (90, "finished")}
    assert read(home)[0].reason == "stopped by hand"


def test_a_worker_that_is_lost_at_a_rung_leaves_its_trial_there(home: Home) -> None:
    engine = open_engine(home, content())
    with engine.ledger:
        work = work_of(engine)
        assert engine.report(work.trial, at(10, 2.0)) is Decision.PAUSE
        engine.ended(work.trial, Outcome(kind="lost", reason="node 3 is gone"))
        assert engine.ledger.trial("0").state is TrialState.AT_RUNG
        assert work_of(engine).trial == "1"


def test_a_budget_that_is_spent_leaves_the_trials_at_their_rungs(home: Home) -> None:
    engine = open_engine(home, content(resources={"gpu": 1}, budget={"gpu_hours": 2 / 3600}))
    with engine.ledger:
        for loss in (2.0, 3.0):
            come_to(engine, work_of(engine), 10, loss)
        assert isinstance(engine.next(), Done)
        assert engine.finish().counts["at-rung"] == 2
    assert control.request(home.sweep("toy"), control.edit(toy.spec(content(resources={"gpu": 1})))).startswith("rev")
    engine = open_engine(home, content())
    with engine.ledger:
        drive(engine)
    assert len([trial for trial in read(home) if trial.state is TrialState.FINISHED]) >= 1


def test_while_trials_run_those_at_rungs_are_not_given_up(home: Home) -> None:
    engine = open_engine(home, content(run_cap=4))
    with engine.ledger:
        works = [work_of(engine) for _ in range(4)]
        for work, loss in zip(works[:3], (2.0, 3.0, 4.0), strict=True):
            come_to(engine, work, 10, loss)
        assert work_of(engine).trial == "0"
        assert engine.next() == Wait(reason="the last trials are running")
        assert not any(trial.state.ended for trial in engine.ledger.trials())


def test_the_search_learns_from_those_that_wait(home: Home) -> None:
    engine = open_engine(home, content(method="tpe", run_cap=30))
    with engine.ledger:
        come_to(engine, work_of(engine), 10, 2.0)
        (seen,) = engine._proposals.observations(engine._proposals.searched())
        assert (seen.state, seen.step, seen.metrics) == (TrialState.AT_RUNG, 10, (2.0,))
        (shown,) = engine._proposals._search.recorded([seen])
        assert shown.state.name == "PRUNED"
        assert shown.intermediate_values == {10: 2.0}


def test_the_tracker_is_told_that_a_trial_waits_and_that_it_goes_on(home: Home) -> None:
    from orchestrator.tracking.tracker import MemoryTracker

    tracker = MemoryTracker()
    engine = open_engine(home, content(run_cap=2), tracker=lambda _: tracker)
    with engine.ledger:
        come_to(engine, work_of(engine), 10, 2.0)
        assert tracker.runs["0"].tags["meansweep.state"] == "at-rung"
        assert tracker.runs["0"].status == "RUNNING"
        come_to(engine, work_of(engine), 10, 3.0)
        assert work_of(engine).trial == "0"
        assert tracker.runs["0"].tags["meansweep.state"] == "running"


def test_trials_of_another_value_of_a_parameter_are_judged_and_promoted_apart(home: Home) -> None:
    """Those with y = 0.7 are all worse than those with y = 0.1, and one of each three goes on."""
    parameters = {"x": {"values": [0.1, 0.2, 0.3]}, "y": {"values": [0.1, 0.7]}}
    grid = {"method": "grid", "run_cap": None, "parameters": parameters}
    for by, wanted in (("y", {0.1, 0.7}), (None, {0.1})):
        rules = {key: value for key, value in (PROMOTE | {"by": by}).items() if value is not None}
        engine = open_engine(Home(home.root / str(by)), content(**grid, early_terminate=rules))
        with engine.ledger:
            gone_on = set()
            while isinstance(work := engine.next(), Assignment):
                values = work.config
                if work.start or work.attempt or come_to(engine, work, 10, values["x"] + 10 * values["y"]):
                    gone_on.add(values["y"])
                    engine.report(work.trial, at(30, values["x"]))
                    engine.ended(work.trial, Outcome(kind="stopped"))
                if len(engine.ledger.trials()) == 6 and gone_on >= wanted:
                    break
            assert gone_on == wanted
