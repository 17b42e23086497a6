"""The settings of a sweep other than its search space: small frozen records, one for each block of the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

METHODS: dict[str, str] = {
    "grid": "every combination, once",
    "random": "independent draws",
    "qmc": "a scrambled Sobol sequence: random search that leaves no gaps",
    "tpe": "tree-structured Parzen estimator (also called bayes)",
    "cmaes": "CMA-ES, for numeric parameters",
    "gp": "Gaussian process",
    "nsga2": "genetic search for several metrics",
    "pbt": "population based training",
}
STOPPING: dict[str, str] = {
    "asha": "at each rung, only the best 1/eta of what has reached it goes on",
    "hyperband": "the same, with W&B's bands: counted up from min_iter, or down from max_iter with s",
    "median": "stop a trial that is worse than the median of the others at the same step",
    "percentile": "the same with another percentile than 50",
    "patience": "stop a trial that has not improved for `patience` reports",
    "threshold": "stop a trial that leaves [lower, upper]",
    "none": "never stop a trial",
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is optimised: a name that `Trainer.evaluate` logs."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None
    """No new trial starts once a trial has reached it."""

    def reached(self, value: float) -> bool:
        """Whether a value meets the target."""
        if self.target is None:
            return False
        return value <= self.target if self.goal == "minimize" else value >= self.target


@dataclass(frozen=True, kw_only=True)
class EarlyTerminate:
    """When a trial is stopped early. Iterations are optimiser steps (or images), never the number of log calls."""

    type: Literal["asha", "hyperband", "median", "percentile", "patience", "threshold", "none"] = "asha"
    min_iter: int | None = None
    """First rung (asha, hyperband); no trial is judged before it (median, percentile, patience, threshold)."""
    max_iter: int | None = None
    """The last rung lies below it; by default the length of a trial."""
    s: int | None = None
    """With max_iter and no min_iter (W&B): the number of rungs, max_iter / eta^k."""
    eta: float = 3.0
    """One in eta goes on at each rung, and the next rung is eta times as far."""
    promote: bool = False
    """Trials wait at each rung, their workers free, until they are among its best 1/eta; none is stopped there."""
    brackets: int = 1
    """Trials are dealt to this many brackets; bracket b has no use of the first b rungs (Hyperband's hedge)."""
    unit: Literal["steps", "images"] = "steps"
    """Of min_iter and max_iter. `images` keeps a sweep over batch sizes comparable."""
    percentile: float = 50.0
    """percentile: the share (in %, counted from the best) of the other trials that a trial must be among."""
    patience: int = 5
    """patience: reports without an improvement."""
    min_delta: float = 0.0
    """patience: a smaller improvement is none."""
    lower: float | None = None
    """threshold: a trial whose metric falls below is stopped."""
    upper: float | None = None
    """threshold: a trial whose metric rises above is stopped."""
    warmup_trials: int = 5
    """median, percentile: trials that must have reached a step before it is judged."""

    @property
    def ranked(self) -> bool:
        """Whether it works with rungs."""
        return self.type in ("asha", "hyperband")

    def rungs(self, length: int, *, batch_size: int = 1, bracket: int = 0) -> list[int]:
        """Return the steps of the rungs of a trial, ascending, all before its end.

        Args:
            length: steps of the whole trial.
            batch_size: rows of a step, where `unit` is images.
            bracket: number of the trial's bracket; 0 has all rungs.
        """
        if not self.ranked:
            return []
        scale = batch_size if self.unit == "images" else 1
        end = min(length, math.ceil(self.max_iter / scale)) if self.max_iter is not None else length
        points: list[float] = []
        if self.min_iter is not None:
            point = float(self.min_iter)
            while point < end * scale:
                points.append(point)
                point *= self.eta
        elif self.max_iter is not None and self.s is not None:
            points = [self.max_iter / self.eta**k for k in range(self.s, 0, -1)]
        steps = sorted({math.ceil(round(point / scale, 6)) for point in points})
        return [step for step in steps if 0 < step < length][bracket % self.brackets :]


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """More seeds for the best configurations, to tell them apart."""

    top: int = 3
    """Configurations that get more seeds."""
    seeds: int = 3
    """Additional seeds of each; with `race`, the largest number."""
    race: bool = False
    """Add seeds one by one, and only to configurations still tied with the best."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial needs."""

    cpu: float = 1.0
    gpu: float = 0.0
    """A share of one GPU, or a whole number of GPUs; of each worker."""
    workers: int = 1
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

    gpu_hours: float | None = None
    wall_clock: float | None = None
    """Seconds in which a driver runs."""
    trials: int | None = None
    """Trials started, replicates included."""
