"""The Ray actor that runs trials, one after the other: a Tune trainable around `run_trial`.

An actor lives through many trials. Whatever failed inside one (out of memory, a bug) makes it unfit: it reports the
failure, is told that this was recorded, and then breaks on purpose, so that Tune never hands it another trial.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import ray
from ray import tune

from orchestrator.trials import Outcome, Report
from orchestrator.worker import (
    Work,
    WorkerGroup,
    classify,
    leftover_memory,
    prepare_process,
    run_on_this_worker,
    wait_for_gpu_memory,
)

LEFTOVER_BYTES = 256 * 2**20
"""GPU memory that a finished trial may leave taken in its process; with more, the process is not used again.

The pools of graphs that are kept for the next trial do not count (`leftover_memory`)."""


class NotUsedAgain(RuntimeError):
    """Raised by an actor whose last trial failed, after the failure was recorded: Tune then replaces the actor."""


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
            if self._stuck():
                os._exit(1)  # a thread of it waits for another process for half an hour, and would be waited for
            raise NotUsedAgain("the trial that ran in this worker failed")
        assert self._stretches is not None
        try:
            report = next(self._stretches, None)
        except Exception as error:
            outcome = classify(error, last_step=self._last.step, last_finite=self._last.metrics)
            self._end()
            self._failed = outcome.kind != "diverged" or self._stuck()
            return {"outcome": outcome, "failed": self._failed, "nodes": self._nodes(), "done": False}
        if report is not None:
            self._last = report
            return {"report": report, "nodes": self._nodes(), "done": False}
        self._end()
        self._failed = leftover_memory() > LEFTOVER_BYTES
        outcome = Outcome(kind="finished", last_step=self._last.step)
        return {"outcome": outcome, "failed": self._failed, "nodes": self._nodes(), "done": False}

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

    def _nodes(self) -> frozenset[str]:
        """Return the nodes that the trial's workers are on (the loss of any ends it); none before they have met."""
        own = frozenset({str(ray.get_runtime_context().get_node_id())})
        if self._group is None:
            return own
        return own | self._group.nodes if self._group.nodes else frozenset()

    def _stuck(self) -> bool:
        return self._group is not None and self._group.stuck

    def _end(self) -> None:
        if self._stretches is not None:
            self._stretches.close()  # type: ignore[attr-defined]
        self._stretches = None
