"""The ledger: one writer, nothing half written, readable by anyone at any time."""

from __future__ import annotations

import builtins
import errno
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.cli.main import run as command
from orchestrator.engine.start import resume_sweep
from orchestrator.ledger.damage import repair
from orchestrator.ledger.driver_lock import driver_of
from orchestrator.ledger.errors import LedgerError, SweepBusy
from orchestrator.ledger.events import Carry, Exit, NewTrial, Point, Revision
from orchestrator.ledger.foreign import is_own_fact
from orchestrator.ledger.journal import Journal, repair_tail
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home, SweepPaths
from orchestrator.results.sweep_status import status_of
from orchestrator.runners.inline import run_inline
from orchestrator.trials.protocol import Assignment, Report
from orchestrator.trials.trial import Failure, TrialRecord, TrialState
from orchestrator.worker.trial_loop import run_trial
from tests.orchestrator import toy
from tests.orchestrator.simulation import essence, open_engine, run

DATA = Path(__file__).parents[1] / "data"
HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.ledger.driver_lock import DriverLock
lock = DriverLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def paths(tmp_path: Path) -> SweepPaths:
    return Home(tmp_path).sweep("toy")


@pytest.fixture
def ledger(paths: SweepPaths) -> Iterator[Ledger]:
    with Ledger.create(paths, toy.spec(toy.sweep()), environment={"torch": "2.0"}) as ledger:
        yield ledger


def a_trial(number: int = 0, **changes: Any) -> NewTrial:
    fields = {"seed": 3, "values": {"x": 0.25, "y": 0.1}, "config_hash": "abc", "metric": "loss", "gpu": 0.5}
    return NewTrial(id=str(number), config_id=number, **(fields | changes))


def a_report(step: int, loss: float, **more: Any) -> Report:
    return Report(step=step, metrics={"loss": loss, "size": 1.0}, seconds=2.0, **more)


@pytest.fixture
def holder(paths: SweepPaths) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths.lock)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_what_is_recorded_is_read_back_by_another_process_as_it_was(ledger: Ledger) -> None:
    ledger.add_trial(a_trial(), params={}, wall=1.0)
    ledger.add_report("0", a_report(30, 2.5, checkpoint="c30", images_seen=300), wall=2.0)
    ledger.end_run("0", TrialState.WAITING, "node gone", wall=3.0, wasted=4.0, failure=Failure("lost", "r"))
    ledger.start_run("0", start=30, gpu=0.25, wall=5.0, drift=["torch: 2.0 -> 2.1"])
    ledger.add_report("0", a_report(60, 1.5), wall=6.0)
    ledger.end_run("0", TrialState.FINISHED, "", wall=7.0)
    record = Ledger.open(ledger.paths).trial("0")
    assert record == ledger.trial("0")
    assert record.state is TrialState.FINISHED
    assert record.reports == {30: {"loss": 2.5, "size": 1.0}, 60: {"loss": 1.5, "size": 1.0}}
    assert (record.metric, record.steps, record.checkpoint, record.seed) == (1.5, 60, "c30", 3)
    assert record.busy_seconds == 2 + 4 + 2
    assert record.gpu_seconds == 0.5 * (2 + 4) + 0.25 * 2
    assert record.wasted_seconds == 4
    assert [failure.kind for failure in record.attempts] == ["lost"]
    assert record.failure is None
    assert record.labels == {"drift": ["torch: 2.0 -> 2.1"]}
    assert Ledger.open(ledger.paths).wall_seconds == 7.0


def test_the_first_record_of_a_step_stands_and_the_repeat_counts_as_waste(ledger: Ledger) -> None:
    ledger.add_trial(a_trial(), params={}, wall=0.0)
    assert ledger.add_report("0", a_report(30, 2.5), wall=1.0)
    assert not ledger.add_report("0", a_report(30, 9.9), wall=2.0)
    record = ledger.trial("0")
    assert record.metric == 2.5
    assert (record.busy_seconds, record.wasted_seconds) == (4.0, 2.0)


def test_numbers_that_are_not_finite_survive(ledger: Ledger) -> None:
    ledger.add_trial(a_trial(), params={}, wall=0.0)
    ledger.add_report("0", Report(step=30, metrics={"loss": math.nan, "size": math.inf}), wall=1.0)
    found = Ledger.open(ledger.paths).trial("0").reports[30]
    assert math.isnan(found["loss"])
    assert found["size"] == math.inf


def test_the_sweep_its_revisions_and_its_environment_are_in_the_ledger(ledger: Ledger) -> None:
    changed = toy.spec(toy.sweep(run_cap=9))
    assert ledger.add_revision(changed, ["run_cap: 6 -> 9"]) == 1
    read = Ledger.open(ledger.paths)
    assert read.spec() == changed
    assert read.spec(0) == toy.spec(toy.sweep())
    assert [revision.changes for revision in read.revisions()] == [[], ["run_cap: 6 -> 9"]]
    assert read.environment() == {"torch": "2.0"}


def test_optuna_reads_the_study_with_its_parameters_values_and_states(tmp_path: Path) -> None:
    asha = {"type": "asha", "min_iter": 10, "eta": 3}
    content = toy.sweep(run_cap=8, early_terminate=asha, replicates={"top": 1, "seeds": 1})
    trials = [trial for trial in run(Home(tmp_path), content) if not trial.replicate]
    storage = optuna.storages.JournalStorage(Journal(Home(tmp_path).sweep("toy").journal))
    study = optuna.load_study(study_name="search", storage=storage)
    assert [row.params for row in study.trials] == [trial.values for trial in trials]
    assert [row.state.name for row in study.trials] == [
        {"finished": "COMPLETE", "pruned": "PRUNED"}[trial.state.value] for trial in trials
    ]
    assert study.best_value == min(trial.metric or 9 for trial in trials if trial.state is TrialState.FINISHED)
    assert {row.state.name for row in study.trials} == {"COMPLETE", "PRUNED"}


def test_a_reader_cannot_write(ledger: Ledger) -> None:
    reader = Ledger.open(ledger.paths)
    with pytest.raises(RuntimeError, match="opened for reading"):
        reader.set_state("stopped")


# ------------------------------------------------------------------------------------------------ one writer


def test_a_second_driver_is_refused_with_the_process_and_host_of_the_first(
    holder: subprocess.Popen[str], paths: SweepPaths
) -> None:
    with pytest.raises(SweepBusy, match=rf"process {holder.pid} on {os.uname().nodename}") as caught:
        Ledger.create(paths, toy.spec(toy.sweep()))
    assert caught.value.pid == holder.pid
    assert driver_of(paths.lock) == (holder.pid, os.uname().nodename)


def test_the_lock_dies_with_its_holder_however_it_dies(holder: subprocess.Popen[str], paths: SweepPaths) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert driver_of(paths.lock) is None
    Ledger.create(paths, toy.spec(toy.sweep())).close()


def test_a_reader_needs_no_lock_and_disturbs_no_writer(ledger: Ledger) -> None:
    assert Ledger.open(ledger.paths).trials() == []
    assert driver_of(ledger.paths.lock) is not None
    ledger.add_trial(a_trial(), params={}, wall=0.0)


def test_no_ledger_and_one_that_was_never_started_are_told_apart(paths: SweepPaths) -> None:
    with pytest.raises(LedgerError, match="no sweep of this name"):
        Ledger.open(paths)
    assert not paths.root.exists()
    paths.root.mkdir(parents=True)
    paths.journal.touch()
    with pytest.raises(LedgerError, match="never started"):
        Ledger.open(paths)


# ------------------------------------------------------------------------------------------------ damage

TAILS = {
    "half a line": b'{"op_code":8,"worker_id":"x","trial_id":0,"user_',
    "one byte": b"{",
    "zeros of a power cut": b"\0" * 700,
    "a line of zeros": b"\0" * 700 + b"\n",
    "half a line, ended": b'{"op_code":8,"work\n',
}


@pytest.mark.parametrize("tail", TAILS)
def test_a_torn_end_is_cut_off_and_the_sweep_goes_on(ledger: Ledger, tail: str) -> None:
    ledger.add_trial(a_trial(), params={}, wall=0.0)
    ledger.close()
    whole = ledger.paths.journal.read_bytes()
    ledger.paths.journal.write_bytes(whole + TAILS[tail])
    with Ledger.open(ledger.paths, write=True) as again:
        assert ledger.paths.journal.read_bytes() == whole
        again.add_report("0", a_report(30, 2.5), wall=1.0)
    assert Ledger.open(ledger.paths).trial("0").metric == 2.5


def test_a_reader_overlooks_a_line_that_is_just_being_written(ledger: Ledger) -> None:
    ledger.add_trial(a_trial(), params={}, wall=0.0)
    with open(ledger.paths.journal, "ab") as file:
        file.write(TAILS["half a line"])
    assert [trial.id for trial in Ledger.open(ledger.paths).trials()] == ["0"]


def test_a_tail_longer_than_a_block_is_cut_off_too(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b'{"op_code": 0}\n' + b"x" * 200_000)
    assert repair_tail(file) == b"x" * 200_000
    assert file.read_bytes() == b'{"op_code": 0}\n'
    file.write_bytes(b"x" * 200_000)
    repair_tail(file)
    assert file.read_bytes() == b""


def test_damage_in_the_middle_is_an_error_that_names_the_file_and_the_line(ledger: Ledger) -> None:
    ledger.close()
    lines = ledger.paths.journal.read_bytes().splitlines(keepends=True)
    lines[2] = b"{damaged\n"
    ledger.paths.journal.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=r"journal\.jsonl: is damaged in line 3 .* doctor --repair toy"):
        Ledger.open(ledger.paths, write=True)


def written(ledger: Ledger) -> list[bytes]:
    for number in range(3):
        ledger.add_trial(a_trial(number), params={}, wall=0.0)
        ledger.add_report(str(number), a_report(30, 1.0 + number), wall=1.0)
    ledger.close()
    return ledger.paths.journal.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("what", ["report:30", '"trial":{'])
@pytest.mark.parametrize("damage", ["cut", "emptied", "garbled"])
def test_a_repair_saves_all_but_the_damaged_line(ledger: Ledger, what: str, damage: str) -> None:
    lines, journal = written(ledger), ledger.paths.journal
    at = [number for number, line in enumerate(lines) if what.encode() in line][1]
    half = len(lines[at]) // 2
    broken = {"cut": lines[at][:half] + b"\n", "emptied": b"\n", "garbled": b"\x00\xff" + lines[at][half:]}[damage]
    journal.write_bytes(b"".join([*lines[:at], broken, *lines[at + 1 :]]))
    with pytest.raises(LedgerError, match=rf"line {at + 1} .*--repair toy"):
        Ledger.open(ledger.paths)
    found, rebuilt, aside = repair(ledger.paths)
    assert (found, rebuilt) == ([at + 1], [])
    assert aside is not None
    assert broken in aside.read_bytes()
    seen = {trial.id: trial.reports for trial in Ledger.open(ledger.paths).trials()}
    assert [reports[30]["loss"] for key, reports in seen.items() if key != "1"] == [1.0, 3.0]
    assert seen.get("1", {}) == {}
    assert ("1" in seen) == (what == "report:30")
    with Ledger.open(ledger.paths, write=True) as again:
        again.add_trial(a_trial(7), params={}, wall=0.0)
    assert repair(ledger.paths) == ([], [], None)


HEADS = ('"study_name":"search"', '"study_name":"replicates"', '"study_name":"warm"', '"format"', '"id":', '"spec:0"')


def inline(home: Home, content: dict[str, Any]) -> list[TrialRecord]:
    """Run a sweep in this process, or go on with it; its trials."""
    engine = open_engine(home, content)
    with engine.ledger:
        run_inline(engine)
        return engine.ledger.trials()


def damaged(paths: SweepPaths, *whats: str) -> list[int]:
    """Spoil the first lines that hold these texts; their numbers."""
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    found = [next(n for n, line in enumerate(lines) if what.encode() in line) for what in whats]
    for n in found:
        lines[n] = lines[n][: len(lines[n]) // 2] + b"\n"
    paths.journal.write_bytes(b"".join(lines))
    return [n + 1 for n in found]


@pytest.mark.parametrize("whats", [*((head,) for head in HEADS), HEADS[:3], HEADS], ids=lambda whats: whats[-1])
def test_what_a_ledger_says_first_is_made_again(tmp_path: Path, whats: tuple[str, ...]) -> None:
    home, content = Home(tmp_path), toy.sweep(run_cap=2, metric={"name": "loss", "goal": "maximize"})
    inline(home, content)
    paths = home.sweep("toy")
    before = Ledger.open(paths)
    lines = damaged(paths, *whats)
    with pytest.raises(LedgerError, match=rf"damaged in line {lines[0]}.*--repair toy"):
        Ledger.open(paths)
    assert command(["doctor", "--repair", "toy", "--home", str(tmp_path)]) == 0
    with Ledger.open(paths, write=True) as after:
        assert after.trials() == before.trials()
        assert after.id == before.id
        for part in ("sweep", "base"):  # but for the file that it came from
            assert after.spec().source[part] == before.spec().source[part]
    assert command(["extend", "1", "toy", "--home", str(tmp_path)]) == 0
    trials = inline(home, content)
    assert [trial.state.value for trial in trials] == ["finished"] * 3
    assert len({trial.config_hash for trial in trials}) == 3
    assert all(trial.attempts == () for trial in trials)
    assert repair(paths) == ([], [], None)


@pytest.mark.parametrize("lost", [('"spec:0"',), ('"spec:1"',), ('"spec:2"',), ('"spec:0"', '"spec:1"', '"spec:2"')])
def test_a_sweep_file_that_was_edited_is_made_again(tmp_path: Path, lost: tuple[str, ...]) -> None:
    home = Home(tmp_path)
    run(home, toy.sweep(run_cap=1))
    paths = home.sweep("toy")
    for _ in range(2):
        assert command(["extend", "1", "toy", "--home", str(tmp_path)]) == 0
    before = run(home, toy.sweep(run_cap=1))
    lines = damaged(paths, *lost)
    found, rebuilt, _ = repair(paths)
    assert found == lines
    assert rebuilt
    ledger = Ledger.open(paths)
    assert ledger.trials() == before
    assert [ledger.spec(number).run_cap for number in range(3)][-1] == 3
    assert [ledger.spec(trial.revision).config_for(trial.values, seed=trial.seed) for trial in before]


def test_a_sweep_file_that_is_lost_altogether_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    run(home, toy.sweep(run_cap=1))
    paths = home.sweep("toy")
    [line] = damaged(paths, '"spec:0"')
    kept = paths.spec.read_text()
    before = paths.journal.read_bytes()
    paths.spec.unlink()
    assert command(["doctor", "--repair", "toy", "--home", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"lost with line {line}" in said
    assert f"put the sweep file there, as {paths.spec}" in said
    assert paths.journal.read_bytes() == before
    paths.spec.write_text(kept)
    assert command(["doctor", "--repair", "toy", "--home", str(tmp_path)]) == 0
    assert len(Ledger.open(paths).trials()) == 1


def test_what_other_tools_write_into_the_study_is_passed_over_and_counted(ledger: Ledger) -> None:
    import optuna

    written(ledger)
    study = optuna.load_study(
        study_name="search", storage=optuna.storages.JournalStorage(Journal(ledger.paths.journal))
    )
    study.enqueue_trial({"x": 0.5})
    study.ask()
    study.trials[0]
    study._storage.set_trial_user_attr(0, "my note", "good")
    with Ledger.open(ledger.paths, write=True) as again:
        assert [trial.id for trial in again.trials()] == ["0", "1", "2"]
        assert len(again.foreign) == 1
        again.add_report("0", a_report(60, 0.5), wall=2.0)
    assert Ledger.open(ledger.paths).trial("0").reports[60]["loss"] == 0.5


@pytest.mark.parametrize("value", ["mine", 3, ["a"], {"a": 1}])
def test_attributes_of_other_tools_hide_none_of_ours(tmp_path: Path, value: object) -> None:
    home = Home(tmp_path)
    run(home, toy.sweep(run_cap=2))
    paths = home.sweep("toy")
    before = status_of(Ledger.open(paths)).to_json()
    storage = JournalStorage(JournalFileBackend(str(paths.journal)))
    study = optuna.load_study(storage=storage, study_name="search")
    for key in ("format", "id", "owner", "wall", "sessions", "environment", "state", "spec:x", "spec:1", "notes"):
        if not is_own_fact(key, value):  # what has the shape of ours cannot be told from it
            study.set_user_attr(key, value)
    for attribute in ("trial", "report:30", "end"):
        study.ask().set_user_attr(attribute, value)
    for write in (False, True):
        with Ledger.open(paths, write=write) as ledger:
            assert [trial.id for trial in ledger.trials()] == ["0", "1"]
            assert len(ledger.foreign) == 3
            found = status_of(ledger).to_json()
            assert {key: found[key] for key in ("state", "owner", "trials", "best")} == {
                key: before[key] for key in ("state", "owner", "trials", "best")
            }


def test_a_trial_that_another_tool_has_ended_is_told_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    home = Home(tmp_path)
    engine = open_engine(home, toy.sweep(run_cap=2))
    work = engine.next()
    assert isinstance(work, Assignment)
    reports = run_trial(work)
    engine.report(work.trial, next(reports))
    storage = JournalStorage(JournalFileBackend(str(engine.paths.journal)))
    optuna.load_study(storage=storage, study_name="search").tell(0, 1.0)
    with pytest.raises(LedgerError, match=r"another tool has ended row 0 .* `meansweep resume toy`"):
        engine.report(work.trial, next(reports))
    reports.close()
    engine.ledger.close()
    engine = resume_sweep(home, "toy")
    with engine.ledger:
        run_inline(engine)
    trials = Ledger.open(home.sweep("toy")).trials()
    assert [(trial.id, trial.state.value) for trial in trials] == [("0", "finished"), ("1", "finished")]
    assert "from step 30" in home.sweep("toy").trial("0").log.read_text()  # what it had done before stays


def test_reports_are_intermediate_values_of_optuna(ledger: Ledger) -> None:
    import optuna

    ledger.add_trial(a_trial(), params={}, wall=0.0)
    for step, loss in ((30, 1.5), (60, float("nan")), (90, 0.5)):
        ledger.add_report("0", a_report(step, loss), wall=1.0)
    study = optuna.load_study(
        study_name="search", storage=optuna.storages.JournalStorage(Journal(ledger.paths.journal))
    )
    assert study.trials[0].intermediate_values == {30: 1.5, 90: 0.5}


def test_a_full_disk_loses_nothing_that_was_recorded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.add_trial(a_trial(), params={}, wall=0.0)
    before = ledger.paths.journal.read_bytes()
    genuine = builtins.open

    class Full:
        """A file that takes half of what is written."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    def on_full_disk(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened = genuine(file, mode, *args, **options)
        return Full(opened) if mode == "ab" else opened

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", on_full_disk)
        with pytest.raises(LedgerError, match=r"No space left on device.*make room"):
            ledger.add_report("0", a_report(30, 2.5), wall=1.0)
    assert ledger.paths.journal.read_bytes() == before
    assert ledger.trial("0").reports == {}
    ledger.add_report("0", a_report(30, 1.25), wall=1.0)
    assert Ledger.open(ledger.paths).trial("0").metric == 1.25


# ------------------------------------------------------------------------------------------------ versions


def test_a_ledger_of_the_first_version_is_read_and_goes_on(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.sweep("old").root.mkdir(parents=True)
    home.sweep("old").journal.write_bytes((DATA / "journal-1.jsonl").read_bytes())
    trials = Ledger.open(home.sweep("old")).trials()
    states = [trial.state.value for trial in trials]
    assert states == ["finished", "failed", "pruned", "running"]
    assert trials[0].reports[90]["loss"] == 0.4112421220753099
    again = run(home, {"name": "old"})
    assert [trial.state.value for trial in again] == ["finished", "failed", "pruned", "finished"]
    assert essence(again[:3]) == essence(trials[:3])


def test_a_ledger_of_a_later_version_is_refused(ledger: Ledger) -> None:
    ledger.close()
    text = ledger.paths.journal.read_text()
    assert '"format":1' in text
    ledger.paths.journal.write_text(text.replace('"format":1', '"format":2'))
    with pytest.raises(LedgerError, match="later version"):
        Ledger.open(ledger.paths)


def test_what_is_recorded_comes_back_equal_from_json_also_with_keys_of_a_later_release() -> None:
    point = Point(metrics={"loss": 1.25}, order=3, checkpoint="c30", seconds=2.0, images=300, at=7.0, wall=5.0, run=1)
    failure = Failure("lost", "node gone", attempt=1, step=30, at=6.0)
    carry = Carry(points={30: point}, busy=4.0, gpu=1.0, wasted=2.0, attempts=(failure,), run=1)
    out = Exit(state=TrialState.AT_RUNG, reason="r", at=8.0, wall=6.0, wasted=1.0, failure=failure, charged=True)
    revision = Revision(source={"sweep": {}}, at=1.0, changes=["run_cap: 6 -> 9"], moves_space=True, command="c")
    for event in (point, carry, a_trial(3, carry=carry, waiting=True, at=9.0, wall=7.0), out, revision):
        read = json.loads(json.dumps(event.to_json()))
        assert type(event).from_json({**read, "of_a_later_release": 1}) == event


def test_an_event_costs_one_short_line(ledger: Ledger) -> None:
    ledger.add_trial(a_trial(), params={}, wall=0.0)
    sizes = []
    for step in range(30, 3000, 30):
        before = ledger.paths.journal.stat().st_size
        ledger.add_report("0", a_report(step, 1.0), wall=1.0)
        sizes.append(ledger.paths.journal.stat().st_size - before)
    assert max(sizes) < 500
    assert sizes[-1] - sizes[0] < 20
    assert all("op_code" in json.loads(line) for line in ledger.paths.journal.read_text().splitlines())
