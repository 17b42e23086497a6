"""What a plan says of a sweep over objectives: what a step of each costs, and where stopping would be unfair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from meanflow_core.config import PRESETS
from orchestrator.planning.probe import step_cost
from orchestrator.spec import flat

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

NAME = "objective.name"
FIXED = ("constant", "uniform")
"""Laws of the split that are the same from the first step to the last."""


def step_costs(spec: SweepSpec, configs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean cost of a step of each swept objective, in flow-matching steps; empty where none is swept."""
    if not spec.builtin_trainer or NAME not in spec.space.names:
        return {}
    found: dict[str, list[float]] = defaultdict(list)
    for config in configs:
        found[config["objective"]["name"]].append(step_cost(config))
    means = {name: round(fmean(costs), 4) for name, costs in found.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], list(PRESETS).index(item[0]))))


def annealing_notes(spec: SweepSpec, configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a warning where early stopping would compare an objective that still anneals with another one."""
    rule = spec.early_terminate
    if not spec.builtin_trainer or not rule.compares:
        return
    schedules: dict[Any, set[tuple[Any, ...]]] = defaultdict(set)
    moving: dict[str, tuple[int, int]] = {}
    for config in configs:
        objective, steps = config["objective"], int(config["trainer"]["steps"])
        split = objective["split"]
        group = None if rule.group_key is None else str(flat(config).get(rule.group_key))
        schedules[group].add((objective["name"], *(split[key] for key in ("law", "start", "end", "after", "until"))))
        end, first = round(split["until"] * steps), first_judged(spec, config)
        if split["law"] not in FIXED and first < end:
            moving[objective["name"]] = (first, end)
    if moving and any(len(several) > 1 for several in schedules.values()):
        names = ", ".join(f"{name} until step {end}" for name, (_, end) in sorted(moving.items()))
        first = min(first for first, _ in moving.values())
        yield (
            f"early stopping compares from step {first} on, but some objectives still anneal ({names}) and look bad "
            "until they end: compare each with itself (`early_terminate: {by: objective.name}`), or all at the end"
        )


def first_judged(spec: SweepSpec, config: Mapping[str, Any]) -> int:
    """Return the first step at which the rule of early stopping compares trials."""
    rungs = spec.rungs(config)
    if rungs:
        return rungs[0]
    least = getattr(spec.early_terminate, "min_iter", None) or 1
    return next(step for step in spec.report_steps(config) if step >= min(least, int(config["trainer"]["steps"])))
