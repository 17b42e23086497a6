"""A sweep that is killed, anywhere and however often, ends as one that was not."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.paths import Home, relocated
from orchestrator.trials.protocol import Assignment, Report
from orchestrator.trials.trial import TrialState
from tests.orchestrator import toy
from tests.orchestrator.simulation import Killed, Killer, Trace, drive, essence, open_engine, read, run, unearned

ASHA = {"type": "asha", "min_iter": 10, "eta": 3}
PROMOTE = {"type": "asha", "min_iter": 15, "eta": 2, "promote": True, "brackets": 2}
SWEEPS: dict[str, dict[str, Any]] = {
    "grid": toy.grid(x=(0.05, 0.3, 0.5, 0.7, 0.9)),
    "random": toy.sweep(run_cap=6),
    "tpe": toy.sweep(method="tpe", run_cap=8, seed=3),
    "asha": toy.sweep(method="tpe", run_cap=10, early_terminate=ASHA),
    "promote": toy.sweep(run_cap=7, early_terminate=PROMOTE, replicates={"top": 1, "seeds": 1}),
    "replicates": toy.sweep(run_cap=3, replicates={"top": 2, "seeds": 2, "race": True}),
}


def killed_run(
    home: Home, content: dict[str, Any], killer: Killer, at: int, how: str, trace: Trace, workers: int
) -> bool:
    """Drive until the given write kills it; True if the sweep came to its end before."""
    killer.arm(at, how)
    engine = None
    try:
        engine = open_engine(home, content)
        drive(engine, workers=workers, trace=trace)
        engine.finish()
        return True
    except Killed:
        return False
    finally:
        killer.arm(None)
        if engine is not None:
            engine.ledger.close()  # the kernel would do it


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    return Killer(monkeypatch)


@pytest.mark.parametrize("kind", SWEEPS)
def test_a_kill_at_any_write_of_the_ledger_changes_nothing(tmp_path: Path, killer: Killer, kind: str) -> None:
    content = SWEEPS[kind]
    expected = essence(run(Home(tmp_path / "whole"), content))
    writes = killer.count
    assert writes > 3 * len(expected)
    for at, how in zip(range(1, writes + 1), itertools.cycle(("before", "within", "after"))):
        home, trace = Home(tmp_path / f"{at}"), Trace()
        done = killed_run(home, content, killer, at, how, trace, workers=1)
        assert not done or at >= writes - 3  # the last writes are those of a driver that has nothing more to do
        ended = [] if not home.sweep("toy").journal.exists() else [t.id for t in read_or_empty(home) if t.state.ended]
        trace.handed.clear()
        assert essence(run(home, content, trace=trace)) == expected, (at, how)
        assert not set(ended) & {trial for trial, _ in trace.handed}, (at, how)


def read_or_empty(home: Home) -> list[Any]:
    from orchestrator.ledger.errors import LedgerError

    try:
        return read(home)
    except LedgerError:
        return []


@pytest.mark.parametrize("kind", ["random", "asha"])
@pytest.mark.parametrize("every", [5, 9])
def test_kills_over_and_over_change_nothing(tmp_path: Path, killer: Killer, kind: str, every: int) -> None:
    content = SWEEPS[kind]
    expected = essence(run(Home(tmp_path / "whole"), content))
    home, trace, sessions = Home(tmp_path / "killed"), Trace(), 0
    while not killed_run(home, content, killer, every, ("within", "after")[sessions % 2], trace, workers=1):
        sessions += 1
        assert sessions < 500
    assert sessions > 5
    assert essence(read(home)) == expected


@pytest.mark.parametrize("rule", [None, {**ASHA, "promote": True}], ids=["", "promote"])
def test_with_several_workers_no_trial_is_lost_or_doubled_and_random_draws_are_the_same(
    tmp_path: Path, killer: Killer, rule: dict[str, Any] | None
) -> None:
    content = toy.sweep(run_cap=12, early_terminate=rule)
    expected = [row[:4] for row in essence(run(Home(tmp_path / "whole"), content, workers=3))]
    for at in range(5, 60, 7):
        home = Home(tmp_path / f"{at}")
        assert not killed_run(home, content, killer, at, "after", Trace(), workers=3)
        trials = run(home, content, workers=3)
        assert [row[:4] for row in essence(trials)] == expected
        assert all(trial.state is TrialState.FINISHED or (rule and trial.state.ended) for trial in trials)
        if rule:
            journal = home.sweep("toy").journal
            assert unearned(journal, rungs=(10, 30), eta=3, run_cap=12) == []
            assert unearned(journal, rungs=(10, 30), eta=6, run_cap=12) != []  # so it does find them


def test_an_interrupted_trial_goes_on_from_its_last_checkpoint(tmp_path: Path, killer: Killer) -> None:
    content = toy.sweep(run_cap=1)
    home, trace = Home(tmp_path), Trace()
    run(Home(tmp_path / "whole"), content)
    at = killer.count - 5  # the report at step 90, that for Optuna, the end, its native state, the clock, the state
    assert not killed_run(home, content, killer, at, "before", trace, workers=1)
    assert [(trial.steps, trial.state) for trial in read(home)] == [(60, TrialState.RUNNING)]
    trace.handed.clear()
    run(home, content, trace=trace)
    assert trace.handed == [("0", 60)]


def test_a_result_of_another_sweep_is_taken_over_whole_or_again(tmp_path: Path, killer: Killer) -> None:
    def prepared(folder: str) -> Home:
        run(Home(tmp_path / folder), toy.grid("first", x=(0.2,)))
        killer.arm(None)
        return Home(tmp_path / folder)

    content = toy.grid(x=(0.2, 0.3))
    expected = essence(run(prepared("whole"), content))
    for at in range(5, 12):  # from the last of the ledger's own entries to the first report of the second trial
        home = prepared(f"{at}")
        assert not killed_run(home, content, killer, at, "after", Trace(), workers=1)
        assert essence(run(home, content)) == expected, at


def test_a_missing_checkpoint_sends_a_trial_back_to_the_one_before(tmp_path: Path, killer: Killer) -> None:
    content = toy.sweep(run_cap=1)
    home, trace = Home(tmp_path), Trace()
    expected = essence(run(Home(tmp_path / "whole"), content))
    killed_run(home, content, killer, killer.count - 5, "before", trace, workers=1)
    shutil.rmtree(home.sweep("toy").trial("0").root / "step-60")
    trace.handed.clear()
    trials = run(home, content, trace=trace)
    assert trace.handed == [("0", 30)]
    assert essence(trials) == expected  # the first record of step 60 stands
    assert trials[0].wasted_seconds == 1.0  # and the stretch that was repeated is counted as waste
    assert trials[0].busy_seconds == 4.0


def test_a_sweep_goes_on_from_its_checkpoints_though_its_project_was_moved(tmp_path: Path) -> None:
    home = Home(tmp_path / "sweeps" / "toy" / "old place")  # with the names that a sweep's own path has
    engine = open_engine(home, toy.sweep(run_cap=1))
    work = engine.next()
    assert isinstance(work, Assignment)
    checkpoint = home.sweep("toy").trial("0").checkpoint(30)
    checkpoint.mkdir(parents=True)
    engine.report("0", Report(step=30, metrics={"loss": 1.0, "size": 1.0}, seconds=1.0, checkpoint=str(checkpoint)))
    engine.ledger.close()
    moved = Home(home.root.rename(tmp_path / "new place"))
    with (engine := open_engine(moved, toy.sweep())).ledger:
        work = engine.next()
    assert isinstance(work, Assignment)
    assert (work.start, work.checkpoint) == (30, str(moved.sweep("toy").trial("0").checkpoint(30)))


def test_places_outside_of_a_sweep_stay_as_they_are(tmp_path: Path) -> None:
    for place in ("s3://bucket/sweeps/toy/7/step-1", "/elsewhere/step-1"):
        assert relocated(place, tmp_path / "sweeps" / "toy") == place
