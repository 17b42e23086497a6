"""The worker's side of a trial: build or load the trainer, train to each report step, judge, save, report.

Nothing here knows Ray, Optuna or MLflow. The same loop runs in the driver's own process and in a Ray actor.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TextIO

from meanflow_core.config import import_named, load_config
from meanflow_core.sampling import save_picture
from orchestrator.paths import TrialPaths
from orchestrator.source_files import loaded_here
from orchestrator.spec import DEFAULT_TRAINER
from orchestrator.trials import Assignment, Report
from orchestrator.worker.checkpoints import CheckpointStore
from orchestrator.worker.program import run_program
from orchestrator.worker.saving import Saving
from orchestrator.worker.trainer_answers import as_metrics, as_rows, check_state, kept_from_leaving

_LOADED: dict[str, set[str]] = {}
"""By trainer, the modules that this process has imported for its trials so far."""
OnLog = Callable[[int, Mapping[str, float]], None]
MakeTrainer = Callable[[Assignment, OnLog], Any]


def run_trial(
    assignment: Assignment,
    *,
    make_trainer: MakeTrainer | None = None,
    clock: Callable[[], float] = time.monotonic,
    store: CheckpointStore | None = None,
    leader: bool = True,
) -> Iterator[Report]:
    """Train one trial from its checkpoint on and yield a report at each of its report steps.

    At a report step the order is: copy the state, evaluate and draw the sample grid while a thread writes the
    checkpoint (atomically), wait for it, yield. A trainer whose evaluation changes its state
    (`evaluation_changes_state`, assumed where it does not say) is copied after it. So a report that was seen has its
    checkpoint; a process killed earlier repeats that stretch and nothing else. Asking
    for the next report says that the last one is recorded: only then are older checkpoints deleted (the best and the
    last are kept). After the last one the runner calls `tidy`.

    Args:
        assignment: what to train, from where, until where.
        make_trainer: takes the assignment and a function that accepts rows of training metrics as they come;
            `build_trainer` if None.
        clock: seconds, for the reports' durations.
        store: where checkpoints go; the trial's folder if None.
        leader: False on the further workers of a trial with several: they train along, and neither write nor log. Where
            each worker holds its part of the weights (`collective`) they take part in what reads them.

    Raises:
        TrainingDiverged: also when an evaluation returns a metric of the sweep that is not finite.
        Exception: whatever the trainer raises, after its traceback is in the trial's log. See `classify`.
    """
    if assignment.program is not None:
        yield from run_program(assignment, clock=clock)
        return
    paths = TrialPaths(Path(assignment.folder))
    checkpoints = store or CheckpointStore.of(assignment)
    log = paths.log if leader else paths.log.with_name(f"{paths.log.name}.worker")
    trainer = None
    there = set(sys.modules)
    gc.freeze()  # what was there before leaves no garbage of this trial: to look at it takes up to a second
    try:
        began = clock()
        with captured_output(log):
            _say(f"trial {assignment.trial}, attempt {assignment.attempt}: from step {assignment.start}")
            if leader:
                checkpoints.begin(assignment.start)
            with kept_from_leaving():
                trainer = _ready(assignment, make_trainer or build_trainer, checkpoints)
                takes_part = leader or getattr(trainer, "collective", False)
                saves = takes_part and assignment.keep_checkpoints
                if saves:
                    check_state(trainer.state_dict())
        step, facts, told = assignment.start, _facts(trainer), False
        for target in assignment.remaining:
            with captured_output(log), Saving(checkpoints if leader else None) as saving:
                if leader:
                    checkpoints.keep_best_and_last(assignment.metric, assignment.goal)
                with kept_from_leaving():
                    rows = as_rows(trainer.train(target - step), target)
                    early = saves and not getattr(trainer, "evaluation_changes_state", True)
                    if early:
                        saving.begin(target, trainer.state_dict())
                    metrics = as_metrics(trainer.evaluate(), target, rows, assignment.metrics)
                    if saves and not early:
                        saving.begin(target, trainer.state_dict())
                step = target
                images = _draw(trainer, paths if leader else None, step) if takes_part else {}
                saved = saving.finish(metrics) if saves else None
                _say(f"step {step}: " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
            if not told and (loaded := _loaded(assignment.trainer, there)):
                facts["loaded"] = loaded  # now: the first stretch may have imported more
            report = Report(
                step=step,
                metrics=metrics,
                rows=rows,
                images=images,
                checkpoint=saved,
                seconds=clock() - began,
                images_seen=_images_seen(trainer, assignment, step),
                facts=facts,
            )
            facts, told = {}, True
            began = clock()
            yield report
    finally:
        del trainer
        free_memory()
        gc.unfreeze()


def tidy(assignment: Assignment) -> None:
    """Delete a trial's checkpoints but the best and the last, once its last report is recorded."""
    CheckpointStore.of(assignment).keep_best_and_last(assignment.metric, assignment.goal)


def build_trainer(assignment: Assignment, on_log: OnLog, *, shared: Any = None) -> Any:
    """Import the assignment's trainer class and make one, giving it only the optional arguments it takes.

    The MeanFlow trainer gets a checked `TrainConfig`, any other class the plain nested dictionary.
    """
    cls = import_trainer(assignment.trainer)
    config: Any = assignment.config
    if assignment.trainer == DEFAULT_TRAINER:
        config = load_config(assignment.config)
    optional = {"shared": shared, "on_log": on_log}
    return cls(config, **{name: value for name, value in optional.items() if value is not None and _takes(cls, name)})


def make_shared(trainer: str, config: Mapping[str, Any]) -> Any:
    """Return what all trials with this data and evaluation can share (None if the trainer has no `shared_data`)."""
    cls = import_trainer(trainer)
    if not hasattr(cls, "shared_data"):
        return None
    return cls.shared_data(load_config(config) if trainer == DEFAULT_TRAINER else dict(config))


def shared_key(config: Mapping[str, Any]) -> str:
    """Return the part of a configuration that shared data may depend on: its `data` and `evaluation` sections."""
    return json.dumps([config.get("data"), config.get("evaluation")], sort_keys=True, default=str)


def import_trainer(name: str) -> Any:
    """Return the class named `package.module:Class`.

    Raises:
        ConfigError: the module cannot be found, or has no such class (naming the nearest).
    """
    return import_named(name, "trainer")


# ---------------------------------------------------------------------------------------------- one stretch


def _ready(assignment: Assignment, make_trainer: MakeTrainer, checkpoints: CheckpointStore) -> Any:
    """Return the trainer, standing at the assignment's start step."""

    def on_log(step: int, row: Mapping[str, float]) -> None:
        _say(f"step {step}: " + ", ".join(f"{name} {value:.6g}" for name, value in row.items()))

    trainer = make_trainer(assignment, on_log)
    if assignment.checkpoint is None:
        return trainer
    trainer.load_state_dict(checkpoints.load(assignment.checkpoint))
    at = getattr(trainer, "step", assignment.start)
    if at != assignment.start:
        raise RuntimeError(f"{assignment.checkpoint} is at step {at}; expected step {assignment.start}")
    return trainer


def _draw(trainer: Any, paths: TrialPaths | None, step: int) -> dict[str, str]:
    """Write the trainer's sample grid, if it has one, and return its path by name; without paths, only take part."""
    if not hasattr(trainer, "sample_grid"):
        return {}
    try:
        with kept_from_leaving():
            grid = trainer.sample_grid()
        if paths is None:
            return {}
        file = paths.images / f"samples-{step:08d}.png"
        save_picture(file, grid)
    except Exception as error:  # latents without a decoder, a device short of memory: no picture is worth a training
        _say(f"step {step}: no sample grid: {type(error).__name__}: {error}")
        return {}
    return {"samples": str(file)}


def _images_seen(trainer: Any, assignment: Assignment, step: int) -> int | None:
    seen = getattr(trainer, "images_seen", None)
    batch = (assignment.config.get("trainer") or {}).get("batch_size")
    if seen is None and batch is not None:
        seen = step * int(batch)
    return None if seen is None else int(seen)


def _facts(trainer: Any) -> dict[str, str]:
    """Return what results depend on and only this process knows: the type of its device, and which data it has."""
    facts = {}
    device = getattr(trainer, "device", None)
    if device is not None:
        torch = sys.modules.get("torch")
        facts["device"] = str(device)
        if torch is not None and str(device).startswith("cuda"):
            with contextlib.suppress(RuntimeError, AssertionError):  # a device that does not tell its name can train
                facts["device"] = str(torch.cuda.get_device_name(device))
    if getattr(trainer, "fingerprint", None):
        facts["fingerprint"] = str(trainer.fingerprint)
    return facts


def _loaded(trainer: str, there: Set[str]) -> str:
    """Return what trials of a trainer have imported here of its own code by computed names.

    Args:
        trainer: `package.module:Class`.
        there: the modules that there were before this trial.
    """
    names = _LOADED.setdefault(trainer, set())
    names |= sys.modules.keys() - there
    return loaded_here(trainer.partition(":")[0], sorted(names))


def _takes(cls: Any, name: str) -> bool:
    parameters = inspect.signature(cls).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def free_memory() -> None:
    """Give back what the last trainer held, on the GPU too, so that the next trial starts with an empty device."""
    gc.collect()
    torch = sys.modules.get("torch")  # never imported for this: a trainer without torch stays without
    if torch is not None and torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a sick device's, which must not take the place of what is raised
            torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------- log


@contextlib.contextmanager
def captured_output(file: Path) -> Iterator[TextIO]:
    """Send this process's prints, warnings and log records to `file` (appended), and an exception's traceback too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8", buffering=1) as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        others = root.handlers[:]
        root.handlers[:] = [handler]
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield stream
        except Exception:
            traceback.print_exc(file=stream)
            raise
        finally:
            root.handlers[:] = others


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)
