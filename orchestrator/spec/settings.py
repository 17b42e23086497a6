"""The settings of a sweep other than its search space: small frozen records, one for each block of the file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from orchestrator.limits import Limits
from orchestrator.trials import LAST, At, score, scores


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is optimised: a name that `Trainer.evaluate` logs."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None
    """No new trial starts once a trial has reached it."""
    at: At = LAST
    """Which reports of a trial count."""

    @property
    def words(self) -> str:
        """What is looked for: `minimize eval/fid_1nfe`, with `(best report)` where it is not the last one."""
        return f"{self.goal} {self.name}{self.at.words}"

    def score(self, values: Sequence[float], *, before: float | None = None) -> float:
        """Return what a trial is judged by after these values; see `trials/scoring.py`."""
        return score(values, self.at, self.goal, before=before)

    def scores(self, reports: Mapping[int, float]) -> dict[int, float]:
        """Return the same after each report of the metric, by step."""
        return scores(reports, self.at, self.goal)

    def reached(self, value: float) -> bool:
        """Whether a value meets the target."""
        if self.target is None:
            return False
        return value <= self.target if self.goal == "minimize" else value >= self.target


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial needs."""

    cpu: Annotated[float, Limits(above=0)] = 1.0
    gpu: Annotated[float, Limits(low=0)] = 0.0
    """A share of one GPU, or a whole number of GPUs; of each worker."""
    workers: Annotated[int, Limits(low=1)] = 1
    """Processes that train one trial together."""
    custom: Mapping[str, float] = field(default_factory=dict)
    """Ray's custom resources."""

    def concurrency(self, available: Mapping[str, Any]) -> int:
        """Return how many trials fit at once in `{cpu, gpu, <custom>: amount}`; 0 if not even one does."""
        needs = {"cpu": self.cpu, "gpu": self.gpu, **self.custom}
        rooms = [
            # a GPU is not joined from the leavings of two: 0.4 fits twice into each
            math.floor(available.get(name, 0) + 1e-9) * math.floor(1 / need + 1e-9) // self.workers
            if name == "gpu" and need < 1
            else math.floor(available.get(name, 0) / (need * self.workers) + 1e-9)
            for name, need in needs.items()
            if need > 0
        ]
        return min(rooms) if rooms else 1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a sweep may spend, over crashes and retries. None: no limit."""

    gpu_hours: Annotated[float, Limits(above=0)] | None = None
    wall_clock: float | None = None
    """Seconds in which a driver runs."""
    trials: Annotated[int, Limits(low=1)] | None = None
    """Trials started, replicates included."""
