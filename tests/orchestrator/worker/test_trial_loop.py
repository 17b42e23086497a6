"""The worker's side of a trial, without Ray."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest

from meanflow_core.errors import ConfigError, TrainingDiverged
from meanflow_core.training.checkpoint import CheckpointError, load_checkpoint
from orchestrator.paths import SweepPaths, TrialPaths
from orchestrator.trials.protocol import Assignment
from orchestrator.worker.checkpoints import CheckpointStore, local_checkpoint
from orchestrator.worker.failure_kinds import classify
from orchestrator.worker.kept import disk_use
from orchestrator.worker.trial_loop import (
    build_trainer,
    import_trainer,
    make_shared,
    run_trial,
    shared_key,
    tidy,
)
from tests import ROOT
from tests.orchestrator import toy_trainers as toys

TOYS = "tests.orchestrator.toy_trainers"


def assignment(folder, kind="Toy", *, steps=(2, 4, 6), start=0, checkpoint=None, goal="minimize", **toy):
    config = toys.config(steps=steps[-1], **toy)
    return Assignment(
        trial="7", sweep="s", config=config, trainer=f"{TOYS}:{kind}", steps=list(steps), start=start,
        checkpoint=checkpoint, folder=str(folder), metric="eval/score", goal=goal,
    )  # fmt: skip


def test_a_trial_reports_at_each_of_its_steps_with_a_checkpoint_already_there(tmp_path):
    seen = []
    for report in run_trial(assignment(tmp_path)):
        assert load_checkpoint(report.checkpoint)["step"] == report.step
        seen.append(report.step)
    assert seen == [2, 4, 6]


def test_going_on_from_a_checkpoint_gives_the_same_reports(tmp_path):
    whole = list(run_trial(assignment(tmp_path / "a", x=0.3)))
    first = next(iter(run_trial(assignment(tmp_path / "b", x=0.3))))
    rest = list(run_trial(assignment(tmp_path / "b", x=0.3, start=2, checkpoint=first.checkpoint)))
    assert [(r.step, r.metrics, r.rows) for r in rest] == [(r.step, r.metrics, r.rows) for r in whole[1:]]


def test_a_checkpoint_of_another_step_is_refused(tmp_path):
    first = next(iter(run_trial(assignment(tmp_path))))
    wrong = assignment(tmp_path / "b", start=4, checkpoint=first.checkpoint)
    with pytest.raises(RuntimeError, match="is at step 2; expected step 4"):
        next(run_trial(wrong))


def test_seconds_of_a_report_cover_the_time_since_the_one_before(tmp_path):
    ticks = iter([0.0, 10.0, 100.0, 130.0, 200.0, 205.0, 300.0])
    reports = run_trial(assignment(tmp_path), clock=lambda: next(ticks))
    assert [report.seconds for report in reports] == [10.0, 30.0, 5.0]  # the time at the runner's end is not its own


def kept(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in TrialPaths(folder).checkpoints.iterdir())


def test_only_the_best_and_the_last_checkpoint_are_kept(tmp_path):
    work = assignment(tmp_path, steps=(1, 2, 3, 4, 5), x=0.0, goal="maximize")  # the score falls: step 1 is the best
    for report in run_trial(work):
        assert len(kept(tmp_path)) <= 3, report
    tidy(work)
    assert kept(tmp_path) == [1, 5]


def test_the_best_and_last_may_be_one(tmp_path):
    work = assignment(tmp_path, steps=(1, 2, 3), x=0.0)
    list(run_trial(work))
    tidy(work)
    assert kept(tmp_path) == [3]


def test_an_older_checkpoint_stays_until_the_newer_report_is_asked_on(tmp_path):
    reports = run_trial(assignment(tmp_path))
    next(reports)
    next(reports)
    assert kept(tmp_path) == [2, 4]  # step 4 may not be recorded yet
    reports.close()
    assert kept(tmp_path) == [2, 4]


def test_what_a_killed_run_left_unrecorded_does_not_displace_the_recorded_checkpoint(tmp_path):
    reports = run_trial(assignment(tmp_path))
    first = next(reports)
    next(reports)  # step 4 is written; the kill comes before it is recorded
    torn = TrialPaths(tmp_path).checkpoints / ".step-00000006.99.tmp"
    torn.mkdir()
    rest = run_trial(assignment(tmp_path, start=2, checkpoint=first.checkpoint))
    assert next(rest).step == 4
    assert kept(tmp_path) == [2, 4]
    assert not torn.exists()


def test_a_trial_from_scratch_forgets_what_was_there(tmp_path):
    list(run_trial(assignment(tmp_path)))
    next(run_trial(assignment(tmp_path)))
    assert kept(tmp_path) == [2]


def test_checkpoints_can_live_behind_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("MEANSWEEP_STORAGE", f"file://{tmp_path / 'bucket'}")
    work = assignment(tmp_path / "trial", steps=(1, 2, 3, 4), goal="maximize", x=0.0)
    reports = list(run_trial(work))
    tidy(work)
    assert reports[-1].checkpoint == f"file://{tmp_path}/bucket/s/7/step-00000004"
    assert sorted(os.listdir(tmp_path / "bucket/s/7")) == ["step-00000001", "step-00000004"]
    assert not TrialPaths(tmp_path / "trial").checkpoints.exists()
    longer = replace(work, steps=[4, 5], start=4, checkpoint=reports[-1].checkpoint)
    assert [report.step for report in run_trial(longer)] == [5]
    scratch = tmp_path / "scratch"
    assert load_checkpoint(local_checkpoint(reports[-1].checkpoint, scratch))["step"] == 4


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_what_a_sweep_keeps_is_counted_wherever_it_is(tmp_path, monkeypatch, scheme):
    sweep = SweepPaths(tmp_path / "s")
    for trial in ("1", "2"):
        with monkeypatch.context() as patch:
            patch.setenv("MEANSWEEP_STORAGE", f"{scheme}{tmp_path}/bucket" if trial == "2" else "")
            work = replace(assignment(sweep.trial(trial).root, x=2.0), trial=trial)  # ends above where it began
            list(run_trial(work))
            tidy(work)
    files = [*sweep.trials.glob("*/checkpoints/*/*"), *(tmp_path / "bucket").rglob("*.*")]
    found = disk_use(sweep)
    assert found["checkpoints"] == 4  # the best and the last of each
    assert found["bytes"] == sum(file.stat().st_size for file in files if file.is_file()) > 0
    stored = [file for file in (tmp_path / "bucket").rglob("*") if file.is_file()]
    assert found["stored"] == sum(file.stat().st_size for file in stored) > 0
    asked = []
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage(path))
    assert disk_use(sweep)["free"] > 0
    assert asked == [tmp_path / "bucket/s/2"]  # the disk that takes the checkpoints


def test_a_checkpoint_missing_behind_a_url_is_named(tmp_path):
    store = CheckpointStore(TrialPaths(tmp_path), f"file://{tmp_path}/bucket")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        store.load(f"file://{tmp_path}/bucket/step-00000004")


def test_output_of_every_kind_goes_to_the_trials_log_and_nowhere_else(tmp_path, capsys):
    [report] = run_trial(assignment(tmp_path, "Talkative", steps=(2,)))
    log = TrialPaths(tmp_path).log.read_text()
    for said in ("to stdout", "to stderr", "WARNING toy: to the log", "step 2: train/loss", "step 2: eval/score"):
        assert said in log
    assert capsys.readouterr().out == ""
    assert report.images["samples"].endswith("samples-00000002.png")


def test_the_sample_grid_is_a_picture(tmp_path):
    from PIL import Image

    [report] = run_trial(assignment(tmp_path, "Talkative", steps=(2,)))
    with Image.open(report.images["samples"]) as picture:
        assert picture.size == (8, 8)


@pytest.mark.parametrize("reports", [1, 3], ids=["stopped early", "finished"])
def test_memory_is_given_back_when_the_trainer_has_gone(tmp_path, monkeypatch, reports):
    made, gone = [], []

    def make(*_):
        trainer = toys.Toy(toys.config(steps=6))
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr("orchestrator.worker.trial_loop.free_memory", lambda: gone.append(made[0]() is None))
    run = run_trial(assignment(tmp_path), make_trainer=make)
    assert len([next(run) for _ in range(reports)]) == reports
    assert gone == []
    run.close()
    assert gone == [True]


def test_a_failures_traceback_is_in_the_log(tmp_path):
    with pytest.raises(KeyError):
        list(run_trial(assignment(tmp_path, fault="bug")))
    assert "a mistake in the trainer" in TrialPaths(tmp_path).log.read_text()


def test_a_metric_that_is_not_finite_is_a_divergence_with_the_last_finite_row(tmp_path):
    with pytest.raises(TrainingDiverged, match="eval/score is nan") as caught:
        list(run_trial(assignment(tmp_path, fault="nan", fault_step=3)))
    assert caught.value.step == 4


def test_images_seen_count_the_batch(tmp_path):
    work = assignment(tmp_path)
    work.config["trainer"]["batch_size"] = 32
    assert [report.images_seen for report in run_trial(work)] == [64, 128, 192]


def test_a_further_worker_writes_nothing_but_its_own_log(tmp_path):
    reports = list(run_trial(assignment(tmp_path, "Talkative"), leader=False))
    assert [report.checkpoint for report in reports] == [None] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt.worker"]


def test_shared_data_is_given_to_trainers_that_take_it(tmp_path):
    config = {**toys.config(), "data": {"count": str(tmp_path / "count"), "offset": 5.0}}
    shared = make_shared(f"{TOYS}:Sharing", config)
    work = replace(assignment(tmp_path, "Sharing"), config=config)
    trainer = build_trainer(work, lambda step, row: None, shared=shared)
    assert trainer.shared is shared
    assert make_shared(f"{TOYS}:Toy", config) is None


def test_shared_data_depend_on_data_and_evaluation_alone():
    base = {"data": {"name": "digits"}, "evaluation": {"samples": 10}, "optimizer": {"lr": 1}}
    assert shared_key(base) == shared_key({**base, "optimizer": {"lr": 2}})
    assert shared_key(base) != shared_key({**base, "evaluation": {"samples": 20}})


def test_a_trainer_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"has no 'Toyy'.*did you mean 'Toy'"):
        import_trainer(f"{TOYS}:Toyy")
    with pytest.raises(ConfigError, match=r"no module 'no_such_package\.module'"):
        import_trainer("no_such_package.module:Trainer")


class OutOfMemoryError(RuntimeError):
    """Like torch's, which is recognised by its name."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrainingDiverged(5, "the loss is nan", {"step": 4, "train/loss": 1.0}), "diverged"),
        (FloatingPointError("overflow"), "diverged"),
        (MemoryError(), "oom"),
        (OutOfMemoryError("CUDA"), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "infrastructure"),
        (OSError(errno.ESTALE, "Stale file handle"), "infrastructure"),
        (ConnectionResetError("peer"), "infrastructure"),
        (RuntimeError("NCCL error in: x.cpp:1, unhandled system error"), "infrastructure"),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:3"), "infrastructure"),
        (CheckpointError("damaged"), "infrastructure"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "bug"),
        (KeyError("x"), "bug"),
        (RuntimeError("CUDA error: device-side assert triggered"), "bug"),
    ],
)
def test_every_end_has_its_class(error, kind):
    outcome = classify(error, last_step=3, last_finite={"eval/score": 1.0})
    assert outcome.kind == kind
    assert type(error).__name__ in outcome.traceback
    assert outcome.last_step == 3
    assert json.dumps(outcome.to_dict())


def test_the_cause_of_an_error_decides_its_class():
    error = ValueError("could not build the model")
    error.__cause__ = MemoryError("no room")
    assert classify(error).kind == "oom"


def test_a_divergence_keeps_its_last_finite_metrics():
    outcome = classify(TrainingDiverged(5, "the loss is nan", {"step": 4, "train/loss": 1.0}), last_step=3)
    assert outcome.last_finite == {"step": 4, "train/loss": 1.0}
    assert "step 5" in outcome.reason
    assert math.isfinite(outcome.last_finite["train/loss"])


def test_a_trial_needs_neither_ray_nor_torch(tmp_path):
    program = (
        "import sys\n"
        "from orchestrator.trials.protocol import Assignment\n"
        "from orchestrator.worker.trial_loop import run_trial\n"
        f"work = Assignment(trial='1', sweep='s', config={{'trainer': {{'steps': 2}}}}, trainer={TOYS + ':Toy'!r},"
        f" steps=[2], folder={str(tmp_path)!r})\n"
        "list(run_trial(work))\n"
        "print(sorted({'ray', 'torch', 'optuna', 'mlflow'} & sys.modules.keys()))\n"
    )
    root = ROOT
    found = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_picture_that_cannot_be_drawn_costs_the_trial_nothing(tmp_path):
    class Blind(toys.Toy):
        def sample_grid(self):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    made = lambda assignment, on_log: Blind(dict(assignment.config))  # noqa: E731
    reports = list(run_trial(assignment(tmp_path), make_trainer=made))
    assert all(report.images == {} for report in reports)
    assert "no sample grid: RuntimeError" in TrialPaths(tmp_path).log.read_text()


def test_a_device_too_sick_to_free_its_memory_does_not_hide_what_it_died_of(tmp_path, monkeypatch):
    import torch

    def sick():
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", sick)
    with pytest.raises(ZeroDivisionError):
        list(run_trial(assignment(tmp_path), make_trainer=lambda *_: 1 / 0))
