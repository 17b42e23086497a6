"""Steps, time, GPU-hours and disk of a sweep: expected from its early stopping and from measured configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from orchestrator.planning.probe import Measurement, work_of
from orchestrator.spec import ENDLESS, SweepSpec


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Expected amounts of a whole sweep. Those that need a measurement are None without one."""

    trainings: int
    """Trials and replicates that train (reused ones do not)."""
    steps: float | None
    """Optimiser steps of all of them, early stopping allowed for; None of a program that does not say its length."""
    steps_unstopped: float | None
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
    """Bytes of the dearest configuration, measured in one process; less what others hold, where the network is in
    shards."""
    shards: int = 1
    """Processes that share a trial's weights, moments and averages (`trainer.sharding`)."""
    device: str | None = None


def expected_reaching(spec: SweepSpec, trials: int, config: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return `(steps, expected trials that get there)` for each rung and for the end of a trial.

    See `Rule.expected`.
    """
    batch_size = 1 if spec.program is not None else int(config["trainer"].get("batch_size", 1))
    rule = spec.early_terminate
    groups = next((p.size for p in spec.space.parameters if rule.group_key in p.keys and p.discrete), 1)
    return rule.expected(trials, spec.length(config), batch_size=batch_size, groups=groups)


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
        configs: configurations drawn at random; the mean over them is taken.
        concurrency: trainings at once.
        probe: measurements; costs of other configurations lie between the cheapest and the dearest, by `work_of`.
    """
    trainings = trials + replicates
    if any(spec.length(config) == ENDLESS for config in configs):
        return Estimate(trainings=trainings, steps=None, steps_unstopped=None, saved=0.0)
    steps, full, reports = [], [], []
    for config in configs:
        length = spec.length(config)
        reaching = expected_reaching(spec, trials, config)
        starts = [0, *(step for step, _ in reaching)]
        walked = math.fsum(count * (step - start) for start, (step, count) in zip(starts, reaching, strict=False))
        at = spec.report_steps(config)
        reports.append(math.fsum(_alive(reaching, step) for step in at) + replicates * len(at))
        steps.append(walked + replicates * length)
        full.append(float((trials + replicates) * length))
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
    in_shards = all((config.get("trainer") or {}).get("sharding") == "fsdp" for config in configs)
    shards = spec.resources.workers if in_shards else 1
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
        # a checkpoint is weights, moments and averages: what is cut
        peak_memory=max(round(m.peak_memory - (1 - 1 / shards) * m.checkpoint_bytes) for m in probe),
        shards=shards,
        device=dear.device,
    )


def _alive(reaching: Sequence[tuple[int, float]], step: int) -> float:
    """Expected trials that report at `step`: those that reach the next rung or end."""
    return next((count for point, count in reaching if step <= point), 0.0)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
