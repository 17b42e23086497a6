"""A checkpoint is written while its trial is judged; it is there or is not counted, whatever comes between."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from meanflow_core.errors import TrainingDiverged
from meanflow_core.training.checkpoint import load_checkpoint
from orchestrator.paths import TrialPaths
from orchestrator.worker import checkpoints
from orchestrator.worker.checkpoints import CheckpointStore
from orchestrator.worker.storage import StorageError
from orchestrator.worker.trial_loop import run_trial
from tests import ROOT
from tests.orchestrator import toy_trainers as toys
from tests.orchestrator.worker.test_trial_loop import assignment, kept

PATIENCE = 20


class Steady(toys.Toy):
    """Its evaluation leaves its state alone, and may fail at a step."""

    evaluation_changes_state = False
    fails_at = 0

    def evaluate(self):
        if self.step == self.fails_at:
            raise TrainingDiverged(self.step, "its samples are not finite", {})
        return super().evaluate()


def made(cls, **attributes):
    def make(work, on_log):
        trainer = cls(dict(work.config))
        vars(trainer).update(attributes)
        return trainer

    return make


def test_a_checkpoint_is_written_while_its_trial_is_judged(tmp_path, monkeypatch):
    judging, writing, together = threading.Event(), threading.Event(), []
    save = checkpoints.save_checkpoint

    def slow(folder, state):
        writing.set()
        together.append(judging.wait(PATIENCE))
        save(folder, state)

    class Judged(Steady):
        def evaluate(self):
            judging.set()
            together.append(writing.wait(PATIENCE))
            return super().evaluate()

    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    [report] = run_trial(assignment(tmp_path, steps=(2,)), make_trainer=made(Judged))
    assert together == [True, True]
    assert load_checkpoint(report.checkpoint)["step"] == 2


def test_a_trainer_that_does_not_say_so_is_saved_as_its_evaluation_leaves_it(tmp_path):
    class Counting(toys.Toy):
        def evaluate(self):
            self.value += 1
            return super().evaluate()

    [report] = run_trial(assignment(tmp_path, steps=(2,)), make_trainer=made(Counting))
    assert load_checkpoint(report.checkpoint)["value"] == report.metrics["eval/score"]


@pytest.mark.parametrize("place", ["a folder", "a bucket"])
def test_of_a_step_that_could_not_be_judged_no_checkpoint_stays(tmp_path, monkeypatch, place):
    bucket = tmp_path / "bucket"
    if place == "a bucket":
        monkeypatch.setenv("MEANSWEEP_STORAGE", f"file://{bucket}")
    seen = []
    with pytest.raises(TrainingDiverged):
        seen.extend(run_trial(assignment(tmp_path / "t"), make_trainer=made(Steady, fails_at=4)))
    where = bucket / "s/7" if place == "a bucket" else TrialPaths(tmp_path / "t").checkpoints
    assert [path.name for path in where.iterdir()] == ["step-00000002"]
    assert list(checkpoints.read_kept(tmp_path / "t" / checkpoints.KEPT)) == ["step-00000002"]


def test_what_the_disk_refuses_is_raised_instead_of_the_report(tmp_path, monkeypatch):
    def full(folder, state):
        raise OSError(28, "No space left on device")

    reports = run_trial(assignment(tmp_path), make_trainer=made(Steady))
    next(reports)
    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    with pytest.raises(StorageError, match="No space left on device"):
        next(reports)
    assert kept(tmp_path) == [2]


def test_a_checkpoint_of_an_earlier_run_that_never_was_counted_goes_when_the_trial_goes_on(tmp_path):
    first = next(run_trial(assignment(tmp_path)))
    store = CheckpointStore(TrialPaths(tmp_path))
    store.write(4, store.copied({"step": 4, "value": 9.0}))  # whole; the kill came before its report
    next(run_trial(assignment(tmp_path, start=2, checkpoint=first.checkpoint), make_trainer=made(Steady)), None)
    assert kept(tmp_path) == [2, 4]
    assert load_checkpoint(TrialPaths(tmp_path).checkpoint(4))["value"] != 9.0
    store.write(6, store.copied({"step": 6, "value": 9.0}))
    store.begin(2)
    assert kept(tmp_path) == [2]


KILLED = """
import os, signal, sys, time
from meanflow_core.training import checkpoint
from tests.orchestrator.worker.test_saving import Steady, assignment, made, run_trial

folder = sys.argv[1]
checksum = checkpoint._flush
def half_written(path):
    if "step-00000004" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    checksum(path)
checkpoint._flush = half_written
for report in run_trial(assignment(folder, x=0.3), make_trainer=made(Steady)):
    print(report.step, flush=True)
"""


def test_a_trial_killed_while_its_checkpoint_is_written_goes_on_with_the_bits_of_an_undisturbed_one(tmp_path):
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "a")], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert died.stdout.split() == ["2"]  # the report of step 4 was never seen
    whole = list(run_trial(assignment(tmp_path / "b", x=0.3), make_trainer=made(Steady)))
    place = TrialPaths(tmp_path / "a").checkpoint(2)
    rest = list(run_trial(assignment(tmp_path / "a", x=0.3, start=2, checkpoint=str(place))))
    assert [(r.step, r.metrics, r.rows) for r in rest] == [(r.step, r.metrics, r.rows) for r in whole[1:]]
    assert not list(TrialPaths(tmp_path / "a").checkpoints.glob(".*"))
