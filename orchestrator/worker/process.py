"""A worker's process, and the work it is given: threads, memory, log, and the data that all trials share.

Nothing here imports Ray Tune, which takes a second: the process that loads the shared data needs none of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray

from orchestrator.paths import TrialPaths
from orchestrator.spec import DEFAULT_TRAINER, Resources
from orchestrator.trials import Assignment, Report
from orchestrator.worker.grant import demand_granted, hide_gpus
from orchestrator.worker.shared_tensors import share_tensors
from orchestrator.worker.trial_loop import build_trainer, import_trainer, make_shared, run_trial, shared_key


@dataclass(frozen=True, repr=False)
class Work:
    """What Tune carries to an actor. Its repr is short because Tune makes names of it."""

    assignment: Assignment
    resources: Resources
    """Of one worker; `workers` of them make the trial."""
    cwd: str
    shared: Any = None
    """Handle of the `SharedData` actor."""
    environment: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"trial-{self.assignment.trial}"


def run_on_this_worker(work: Work, *, leader: bool = True) -> Iterator[Report]:
    """Run the trial in this process, everything that it prints, also from C, going to its log."""
    assignment = work.assignment
    log = TrialPaths(Path(assignment.folder)).log
    with descriptors_to(str(log)):
        try:
            yield from run_trial(assignment, make_trainer=partial(_make_trainer, work), leader=leader)
        except KeyboardInterrupt as error:  # nobody interrupts a worker
            raise RuntimeError("the trainer raised KeyboardInterrupt") from error


def _make_trainer(work: Work, assignment: Assignment, on_log: Callable[..., None]) -> Any:
    shared, store = None, work.shared
    cls = import_trainer(assignment.trainer)
    demand_granted(work.resources.gpu, assignment.config)
    if store is not None and hasattr(cls, "shared_data"):
        shared = _fetch_shared(store, assignment)
    return build_trainer(assignment, on_log, shared=shared)


_fetched: dict[str, Any] = {}


def _fetch_shared(store: Any, assignment: Assignment) -> Any:
    """Return the shared data; the actor keeps the last it used, so that the next trial finds it unpacked."""
    key = shared_key(assignment.config)
    if key not in _fetched:
        found = _load_shared(store, assignment)
        _fetched.clear()
        _fetched[key] = found
    return _fetched[key]


def _load_shared(store: Any, assignment: Assignment) -> Any:
    """Return what the actor loads; where it is lost meanwhile, Ray starts it again, and it is asked again.

    Raises:
        SharedDataLost: it was lost over and over.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            [reference] = ray.get(store.get.remote(assignment.trainer, assignment.config))
            return ray.get(reference)
        except LOST as error:
            reason = f"the process that loads the data of all trials was lost: {error}"
            pause = next(pauses, None)
            if pause is None:
                raise SharedDataLost(reason) from error
            print(f"{reason}\nasked again in {pause:g} s", flush=True)
            time.sleep(pause)


class SharedDataLost(ConnectionError):
    """The process that loads what trials share is gone: a fault of the machine, whatever ended it."""


PAUSES = (1.0, 4.0, 15.0)
"""Seconds before what a lost process was to load is asked for again."""
LOST = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError)
"""What Ray raises where that process was lost (its node, its memory), with what it has loaded or before."""


@ray.remote(num_cpus=0, max_restarts=-1)
class SharedData:
    """Loads what trials share once, and puts it into the object store: each node fetches it once.

    Ray starts it again whenever it dies: it has the most memory, so the first that a node ends when that runs out.

    It is granted no GPU, whatever the trials are: what it loads is on the CPU, and moves to a trial's GPU there.
    """

    def __init__(self, work: Work) -> None:
        hide_gpus()
        prepare_process(work)
        os.chdir(work.cwd if os.path.isdir(work.cwd) else ".")
        self._references: dict[str, Any] = {}

    def get(self, trainer: str, config: dict[str, Any]) -> list[Any]:
        """Return a list with the reference (a bare one would be resolved by Ray on the way)."""
        key = shared_key(config)
        if key not in self._references:
            made = make_shared(trainer, config)
            if trainer == DEFAULT_TRAINER:  # which writes into none of it; any other gets tensors of its own
                share_tensors()
            self._references[key] = ray.put(made)
        return [self._references[key]]


def prepare_process(work: Work) -> None:
    """Give this process what it was granted, before torch looks: no GPU where none was, and one thread per CPU.

    The threads wait passively: those that spin beside another process's make both up to thirty times slower.
    """
    if not work.resources.gpu:
        hide_gpus()
    threads = max(1, int(work.resources.cpu))
    os.environ.update(work.environment)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def leftover_memory() -> int:
    """Return the bytes of GPU memory that this process holds and should not: live tensors, and the allocator's pool.

    The pools of graphs that are kept for the next trial of the same structure are none of them; they are let go when
    another structure begins.
    """
    torch, graphs = sys.modules.get("torch"), sys.modules.get("meanflow_core.training.graphs")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved()) - (graphs.bytes_of_graphs() if graphs is not None else 0)


def wait_for_gpu_memory(
    share: float,
    *,
    free_and_total: Callable[[], tuple[int, int] | None] | None = None,
    timeout: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until a GPU has this share of its memory free: a process that was killed gives it back a little later.

    Returns:
        Whether it became free in time. A trial starts in any case; it then fails by itself if the memory is needed.
    """
    if share <= 0:
        return True
    read = free_and_total or _free_and_total
    for _ in range(max(1, int(timeout / 0.5))):
        memory = read()
        if memory is None or memory[0] >= 0.9 * min(share, 1.0) * memory[1]:
            return True
        sleep(0.5)
    return False


def _free_and_total() -> tuple[int, int] | None:
    """Return the bytes of the GPU that are free and all of them; None where there is no GPU, or it does not say."""
    import torch

    try:
        return torch.cuda.mem_get_info() if torch.cuda.is_available() else None
    except RuntimeError:  # the trial will say more of it
        return None


@contextlib.contextmanager
def descriptors_to(file: str) -> Iterator[None]:
    """Send what this process writes to descriptors 1 and 2, from C or a dying interpreter too, to `file`."""
    os.makedirs(os.path.dirname(file), exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    kept = os.dup(1), os.dup(2)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        for descriptor, original in enumerate(kept, start=1):
            os.dup2(original, descriptor)
            os.close(original)
