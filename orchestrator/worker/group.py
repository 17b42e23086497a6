"""The processes of a trial with several workers, one of which leads."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from meanflow_core.errors import TrainingDiverged
from orchestrator.spec import Resources
from orchestrator.trials import Report
from orchestrator.worker.grant import hide_gpus
from orchestrator.worker.process import Work, prepare_process, run_on_this_worker
from orchestrator.worker.process_group import join_process_group

SETTLING = 5.0
"""Seconds for the other ranks to fail too when one has."""
ENDING = 10.0
"""Seconds for the ranks to let go of a trial."""


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
        self._joined = False
        self.nodes: frozenset[str] = frozenset()
        """Those of the other processes, once they have joined."""
        self.stuck = False
        """Whether a rank waits for another in vain: the processes are of no use, and will not end by themselves."""

    def run(self, work: Work) -> Iterator[Report]:
        """Yield rank 0's reports, all ranks moving from one to the next together."""
        if not self._joined:
            self._join(work.resources)
        ray.get([other.begin.remote(work) for other in self._others])
        own = run_on_this_worker(work)
        try:
            while True:
                report = self._together([other.step.remote() for other in self._others], lambda: next(own, None))
                if report is None:
                    return
                yield report
        finally:
            self._let_go(own)

    def _join(self, resources: Resources) -> None:
        # Not while Ray starts this actor: what takes long, or fails, there is not yet a trial's.
        host, port = ray.util.get_node_ip_address(), _free_port()  # type: ignore[no-untyped-call]
        own = partial(join_process_group, host, port, 0, resources.workers, on_gpu=resources.gpu > 0)
        try:
            self._together([other.join.remote(host, port) for other in self._others], own)
        except (RuntimeError, ray.exceptions.RayTaskError) as error:
            raise ConnectionError(
                f"the workers of this trial did not find one another at {host}:{port}; are all ports open between the "
                "nodes? $GLOO_SOCKET_IFNAME and $NCCL_SOCKET_IFNAME name the network interface to use"
            ) from error
        self.nodes = frozenset(ray.get([other.node.remote() for other in self._others]))
        self._joined = True

    def _let_go(self, own: Iterator[Report]) -> None:
        """End the trial on every rank; one that does not answer waits, within a collective, for one that failed."""
        until = time.monotonic() + ENDING
        closed = self._thread.submit(own.close)  # type: ignore[attr-defined]
        ends = [other.end.remote() for other in self._others]
        _, waiting = ray.wait(ends, num_returns=len(ends), timeout=ENDING)  # a rank that died counts as done
        with contextlib.suppress(TimeoutError):
            closed.exception(timeout=max(0.0, until - time.monotonic()))
        self.stuck = bool(waiting) or not closed.done()

    def _together(self, references: list[Any], act: Callable[[], Any]) -> Any:
        """Do rank 0's part while watching the others: one that fails must not leave the rest waiting for it."""
        own = self._thread.submit(act)
        waiting, until = list(references), math.inf
        while (waiting or not own.done()) and time.monotonic() < until:
            if waiting:
                done, waiting = ray.wait(waiting, timeout=0.05 if own.done() else 0.2)
                for reference in done:
                    self._check(reference, own)
            else:
                own.exception()  # waits
            if until == math.inf and own.done() and own.exception() is not None:
                until = time.monotonic() + SETTLING  # a rank that died may be the reason, and says more
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
                if isinstance(own.exception(timeout=SETTLING), TrainingDiverged):
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
        if not ray.get_gpu_ids():
            hide_gpus()  # joining looks at what there is

    def join(self, host: str, port: int) -> None:
        """Join the process group."""
        join_process_group(host, port, self._rank, self._size, on_gpu=bool(ray.get_gpu_ids()))

    def node(self) -> str:
        """Return the id of the node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
