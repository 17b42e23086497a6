"""The Ray actor that runs trials, one after the other: a Tune trainable around `run_trial`.

An actor lives through many trials. Whatever failed inside one (out of memory, a bug) makes it unfit: it reports the
failure, is told that this was recorded, and then breaks on purpose, so that Tune never hands it another trial.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from meanflow_core.errors import TrainingDiverged
from orchestrator.messages import Assignment, Outcome, Report
from orchestrator.paths import TrialPaths
from orchestrator.settings import Resources
from orchestrator.trial import build_trainer, classify, import_trainer, make_shared, run_trial, shared_key

LEFTOVER_BYTES = 256 * 2**20
"""GPU memory that a finished trial may leave allocated in its process; with more, the process is not used again."""


class NotUsedAgain(RuntimeError):
    """Raised by an actor whose last trial failed, after the failure was recorded: Tune then replaces the actor."""


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


class TrialWorker(tune.Trainable):
    """Runs one trial at a time; a step of it is one report."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial."""
        self._group: WorkerGroup | None = None
        self._failed = False
        self._stretches: Iterator[Report] | None = None
        self._last = Report(step=0, metrics={})
        work: Work = config["work"]
        prepare_process(work)
        wait_for_gpu_memory(work.resources.gpu)
        self._begin(work)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self._end()
        self._begin(new_config["work"])
        return True

    def step(self) -> dict[str, Any]:
        """Return the trial's next report, or how it ended."""
        if self._failed:
            raise NotUsedAgain("the trial that ran in this worker failed")
        assert self._stretches is not None
        try:
            report = next(self._stretches, None)
        except Exception as error:
            outcome = classify(error, last_step=self._last.step, last_finite=self._last.metrics)
            self._end()
            self._failed = outcome.kind != "diverged"
            return {"outcome": outcome, "failed": self._failed, "done": False}
        if report is not None:
            self._last = report
            return {"report": report, "node": ray.get_runtime_context().get_node_id(), "done": False}
        self._end()
        self._failed = allocated_memory() > LEFTOVER_BYTES
        outcome = Outcome(kind="finished", last_step=self._last.step)
        return {"outcome": outcome, "failed": self._failed, "done": False}

    def cleanup(self) -> None:
        """Let go of everything; the process ends after this."""
        self._end()
        if self._group is not None:
            self._group.close()

    def log_result(self, result: dict[str, Any]) -> None:
        """Keep the configuration out of what goes back to the driver: it knows it."""
        result.pop("config", None)

    def _begin(self, work: Work) -> None:
        os.chdir(work.cwd if os.path.isdir(work.cwd) else os.environ.get("TUNE_ORIG_WORKING_DIR", "."))
        self.config = {}
        assignment = work.assignment
        self._last = Report(step=assignment.start, metrics={})
        if work.resources.workers > 1:
            if self._group is None:
                self._group = WorkerGroup(work.resources)
            self._stretches = self._group.run(work)
        else:
            self._stretches = run_on_this_worker(work)

    def _end(self) -> None:
        if self._stretches is not None:
            self._stretches.close()  # type: ignore[attr-defined]
        self._stretches = None


def run_on_this_worker(work: Work, *, leader: bool = True) -> Iterator[Report]:
    """Run the trial in this process, everything that it prints, also from C, going to its log."""
    assignment = work.assignment
    log = TrialPaths(Path(assignment.folder)).log
    with descriptors_to(str(log)):
        yield from run_trial(assignment, make_trainer=partial(_with_shared, work.shared), leader=leader)


def _with_shared(store: Any, assignment: Assignment, on_log: Callable[..., None]) -> Any:
    shared = None
    cls = import_trainer(assignment.trainer)
    if not gc.get_freeze_count():
        gc.freeze()  # what is loaded by now stays: collecting after each trial need not look at it again (0.2 s)
    if store is not None and hasattr(cls, "shared_data"):
        shared = _fetch_shared(store, assignment)
    return build_trainer(assignment, on_log, shared=shared)


_fetched: dict[str, Any] = {}


def _fetch_shared(store: Any, assignment: Assignment) -> Any:
    """Return the shared data; the actor keeps the last it used, so that the next trial finds it unpacked."""
    key = shared_key(assignment.config)
    if key not in _fetched:
        [reference] = ray.get(store.get.remote(assignment.trainer, assignment.config))
        _fetched.clear()
        _fetched[key] = ray.get(reference)
    return _fetched[key]


@ray.remote(num_cpus=0, max_restarts=2)
class SharedData:
    """Loads what trials share once, and puts it into the object store: each node fetches it once."""

    def __init__(self, work: Work) -> None:
        prepare_process(work)
        os.chdir(work.cwd if os.path.isdir(work.cwd) else ".")
        self._references: dict[str, Any] = {}

    def get(self, trainer: str, config: dict[str, Any]) -> list[Any]:
        """Return a list with the reference (a bare one would be resolved by Ray on the way)."""
        key = shared_key(config)
        if key not in self._references:
            self._references[key] = ray.put(make_shared(trainer, config))
        return [self._references[key]]


# ---------------------------------------------------------------------------------------------- several workers


class WorkerGroup:
    """The processes of a trial with several workers: this one is rank 0, the others live in its placement group.

    All of them run the same `run_trial` step by step; the process group between them is torch's (gloo on CPUs, nccl on
    GPUs). Rank 0 alone writes and reports.
    """

    def __init__(self, resources: Resources) -> None:
        size = resources.workers
        self._thread = ThreadPoolExecutor(1)  # of rank 0: the main thread watches the other ranks meanwhile
        group = ray.util.get_current_placement_group()
        assert group is not None, "a trial with several workers runs in a placement group"
        self._others = [
            Rank.options(  # type: ignore[attr-defined]
                num_cpus=resources.cpu,
                num_gpus=resources.gpu,
                resources=resources.custom or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote(rank, size)
            for rank in range(1, size)
        ]
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        address = f"tcp://{host}:{_free_port()}"
        joins = [other.join.remote(address) for other in self._others]
        self._together(joins, partial(join_process_group, address, 0, size, resources.gpu > 0))

    def run(self, work: Work) -> Iterator[Report]:
        """Yield rank 0's reports, all ranks moving from one to the next together."""
        ray.get([other.begin.remote(work) for other in self._others])
        own = run_on_this_worker(work)
        try:
            while True:
                report = self._together([other.step.remote() for other in self._others], lambda: next(own, None))
                if report is None:
                    return
                yield report
        finally:
            self._thread.submit(own.close).result()  # type: ignore[attr-defined]
            with contextlib.suppress(ray.exceptions.RayError):  # a rank that died has nothing to let go of
                ray.get([other.end.remote() for other in self._others])

    def _together(self, references: list[Any], act: Callable[[], Any]) -> Any:
        """Do rank 0's part while watching the others: a rank that dies must not leave rank 0 waiting for it."""
        own = self._thread.submit(act)
        waiting = list(references)
        while waiting or not own.done():
            if waiting:
                done, waiting = ray.wait(waiting, timeout=0.05 if own.done() else 0.2)
                for reference in done:
                    self._check(reference, own)
            else:
                own.exception()  # waits
        return own.result()

    @staticmethod
    def _check(reference: Any, own: Any) -> None:
        try:
            ray.get(reference)
        except ray.exceptions.RayActorError as error:
            raise ConnectionError(f"a worker of this trial was lost: {error}") from error
        except Exception:
            # Ranks mostly fail together; rank 0's own divergence says more than the same one wrapped by Ray.
            with contextlib.suppress(TimeoutError):
                if isinstance(own.exception(timeout=5), TrainingDiverged):
                    own.result()
            raise

    def close(self) -> None:
        """End the other processes."""
        for other in self._others:
            ray.kill(other)
        self._thread.shutdown(wait=False)


@ray.remote(num_cpus=0)
class Rank:
    """A further process of a trial with several workers."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size
        self._stretches: Any = None

    def join(self, address: str) -> None:
        """Join the process group."""
        join_process_group(address, self._rank, self._size, bool(ray.get_gpu_ids()))

    def begin(self, work: Work) -> None:
        """Take a trial."""
        prepare_process(work)
        os.chdir(work.cwd if os.path.isdir(work.cwd) else ".")
        self._stretches = run_on_this_worker(work, leader=False)

    def step(self) -> None:
        """Train along to the next report."""
        next(self._stretches, None)

    def end(self) -> None:
        """Let go of the trial."""
        if self._stretches is not None:
            self._stretches.close()
        self._stretches = None


def join_process_group(address: str, rank: int, size: int, on_gpu: bool) -> None:
    """Join torch's default process group."""
    import torch.distributed

    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", init_method=address, rank=rank, world_size=size)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------------------------------------- the process


def prepare_process(work: Work) -> None:
    """Give this process one thread per CPU it was given, waiting passively, before torch is loaded.

    Threads that spin beside another process's make both up to thirty times slower.
    """
    threads = max(1, int(work.resources.cpu))
    os.environ.update(work.environment)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def allocated_memory() -> int:
    """Return the bytes of GPU memory that live tensors of this process hold."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_allocated())


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
    import torch

    return torch.cuda.mem_get_info() if torch.cuda.is_available() else None


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
