"""Steps, time, GPU-hours and disk of a sweep: expected from its early stopping and from measured configurations."""

from __future__ import annotations

import math
import random
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean
from typing import Any

from orchestrator.planning.probe import Measurement, work_of
from orchestrator.search import keep_count
from orchestrator.spec import SweepSpec

PLAYED = 2000
"""Most trials that are played through; of more, the same shares get as far."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Expected amounts of a whole sweep. Those that need a measurement are None without one."""

    trainings: int
    """Trials and replicates that train (reused ones do not)."""
    steps: float
    """Optimiser steps of all of them, early stopping allowed for."""
    steps_unstopped: float
    """The same if no trial were stopped early."""
    saved: float
    """Share of the steps that early stopping saves."""
    work_seconds: float | None = None
    """Sum over all trainings."""
    wall_seconds: float | None = None
    wall_range: tuple[float, float] | None = None
    """If every trial cost as little as the cheapest, and as much as the dearest, configuration."""
    gpu_hours: float | None = None
    """None too where GPUs are asked for and the measurement was on a CPU."""
    disk_bytes: int | None = None
    """The last checkpoint of every training."""
    peak_memory: int | None = None
    """Bytes of the dearest configuration."""
    device: str | None = None


def expected_reaching(spec: SweepSpec, trials: int, config: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return `(steps, expected trials that get there)` for each rung and for the end of a trial.

    Trials are taken to arrive in random order of quality, one after the other, and to keep their order from rung to
    rung. Other rules than rungs are not predicted: every trial is expected to reach its end.
    """
    length = int(config["trainer"]["steps"])
    rule = spec.early_terminate
    if rule is None or not rule.ranked:
        return [(length, float(trials))]
    reaching: dict[int, float] = dict.fromkeys((*spec.rungs(config), length), 0.0)
    for bracket in range(rule.brackets):
        own, dealt = spec.rungs(config, bracket=bracket), len(range(bracket, trials, rule.brackets))
        arriving, played = _promoted if rule.promote else _arrivals, min(dealt, PLAYED)
        arrivals = [count * dealt / max(played, 1) for count in arriving(played, len(own), rule.eta)]
        for step in reaching:
            reaching[step] += arrivals[0]
            if step in own:
                del arrivals[0]
    return list(reaching.items())


@cache
def _arrivals(trials: int, rungs: int, eta: float) -> tuple[float, ...]:
    """The mean number of trials at each rung and at the end, over seeded simulations.

    A formula holds for the first rung alone: the i-th goes on with chance keep_count(i) / i. Those who go on late are
    better than those who went on early, so at the next rungs more go on than that.
    """
    chance, totals = random.Random(0), [0] * (rungs + 1)
    repeats = max(20, min(400, 20_000 // max(trials, 1)))
    for _ in range(repeats):
        arriving = [chance.random() for _ in range(trials)]
        for rung in range(rungs + 1):
            totals[rung] += len(arriving)
            seen: list[float] = []
            passed = []
            for value in arriving:
                insort(seen, value)
                if value <= seen[keep_count(len(seen), eta) - 1]:
                    passed.append(value)
            arriving = passed
    return tuple(total / repeats for total in totals)


@cache
def _promoted(trials: int, rungs: int, eta: float) -> tuple[float, ...]:
    """The same where trials wait at rungs to be promoted (`orchestrator.search.promotion`).

    Few more than one in eta goes on: those that were among the best of the first ones and no more among all.
    """
    chance, totals = random.Random(0), [0] * (rungs + 1)
    repeats = max(3, min(100, 3_000 // max(trials, 1)))
    for _ in range(repeats):
        standing: list[list[float]] = [[] for _ in range(rungs + 1)]
        gone: list[set[float]] = [set() for _ in range(rungs)]

        def promote(last: bool, standing: list[list[float]] = standing, gone: list[set[float]] = gone) -> bool:
            for rung in reversed(range(rungs)):
                there = standing[rung]
                count = keep_count(len(there), eta) if last else int(len(there) / eta + 1e-9)
                best = next((value for value in there[:count] if value not in gone[rung]), None)
                if best is not None:
                    gone[rung].add(best)
                    insort(standing[rung + 1], best)
                    return True
            return False

        for _ in range(trials):
            insort(standing[0], chance.random())
            while promote(False):
                pass
        while promote(True):
            pass
        totals = [total + len(there) for total, there in zip(totals, standing, strict=True)]
    return tuple(total / repeats for total in totals)


def estimate_cost(
    spec: SweepSpec,
    trials: int,
    replicates: int,
    configs: Sequence[Mapping[str, Any]],
    concurrency: int,
    probe: Sequence[Measurement] = (),
) -> Estimate:
    """Expect what a sweep takes.

    Args:
        spec: the sweep.
        trials: trainings of the search.
        replicates: additional trainings, which are never stopped.
        configs: configurations drawn at random; each in turn stands for all, and the mean is taken.
        concurrency: trainings at once.
        probe: measurements; costs of other configurations lie between the cheapest and the dearest, by `work_of`.
    """
    steps, full, reports = [], [], []
    for config in configs:
        length = int(config["trainer"]["steps"])
        reaching = expected_reaching(spec, trials, config)
        starts = [0, *(step for step, _ in reaching)]
        walked = math.fsum(count * (step - start) for start, (step, count) in zip(starts, reaching, strict=False))
        at = spec.report_steps(config)
        reports.append(math.fsum(_alive(reaching, step) for step in at) + replicates * len(at))
        steps.append(walked + replicates * length)
        full.append(float((trials + replicates) * length))
    trainings = trials + replicates
    expected = Estimate(
        trainings=trainings,
        steps=fmean(steps),
        steps_unstopped=fmean(full),
        saved=1 - fmean(steps) / fmean(full) if trainings else 0.0,
    )
    if not probe:
        return expected
    cheap, dear = min(probe, key=lambda m: m.work), max(probe, key=lambda m: m.work)
    span = dear.work - cheap.work
    shares = [min(max((work_of(config) - cheap.work) / span, 0.0), 1.0) if span else 1.0 for config in configs]

    def seconds(shares: Sequence[float]) -> float:
        return fmean(
            trainings * _between(cheap.startup_seconds, dear.startup_seconds, share)
            + walked * _between(cheap.seconds_per_step, dear.seconds_per_step, share)
            + count * _between(cheap.evaluation_seconds, dear.evaluation_seconds, share)
            for share, walked, count in zip(shares, steps, reports, strict=True)
        )

    lanes = max(1, min(concurrency, trainings))
    work, gpus = seconds(shares), spec.resources.gpu * spec.resources.workers
    low, high = sorted(seconds([end] * len(configs)) / lanes for end in (0.0, 1.0))
    return replace(
        expected,
        work_seconds=work,
        wall_seconds=work / lanes,
        wall_range=(low, high),
        # seconds measured on a CPU say nothing about a GPU
        gpu_hours=work * gpus / 3600 if not gpus or dear.device != "cpu" else None,
        disk_bytes=trainings * max(m.checkpoint_bytes for m in probe),
        peak_memory=max(m.peak_memory for m in probe),
        device=dear.device,
    )


def _alive(reaching: Sequence[tuple[int, float]], step: int) -> float:
    """Expected trials that report at `step`: those that reach the next rung or end."""
    return next((count for point, count in reaching if step <= point), 0.0)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
