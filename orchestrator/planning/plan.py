"""What a sweep is going to do, and what it will cost, before it starts."""

from __future__ import annotations

import random
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.planning.cost import Estimate, estimate_cost
from orchestrator.planning.objectives import annealing_notes, step_costs
from orchestrator.planning.power import Power, power_of
from orchestrator.planning.probe import Measurement, drawn_configs
from orchestrator.planning.training import Fact, training_facts
from orchestrator.spec import ENDLESS, SweepSpec

DRAWS = 2000
"""Combinations drawn to estimate how many are forbidden."""
CONFIGS = 1000
"""Most combinations whose configurations are built to find equal ones: about 2 ms each."""
ENDLESS_RUNGS = 5
"""Rungs that are shown of a program that does not say how long it is."""
COSTED = 64
"""Configurations drawn to average steps and costs over."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep is going to do."""

    sweep: str
    method: str
    trials: int | None
    """Trials of the search; None where only a budget of time ends it."""
    grid_size: int | None
    """Combinations that are allowed; None where there are infinitely many."""
    parameters: tuple[dict[str, str], ...]
    forbidden: float
    """Share of random combinations that `forbid` excludes."""
    duplicates: int
    """Combinations that come out as the configuration of an earlier one; a sweep trains it once."""
    reused: int
    """Combinations that are finished elsewhere: recorded, not trained (`on_duplicate: skip` passes them over)."""
    rungs: tuple[int, ...]
    """Steps of a trial; where its length or batch size is varied, of one drawn at random."""
    replicates: int
    """Most additional trainings for `replicates`."""
    concurrency: int
    """Trials at once; 0 where not even one fits."""
    estimate: Estimate
    power: Power | None
    """What its seeds can tell; None where that was not asked for."""
    training: tuple[Fact, ...]
    """What is trained."""
    over_budget: tuple[str, ...] = ()
    """Why this does not fit; empty if it does."""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What the trials would not find on this machine."""
    command: str | None = None
    """Of an own program: what one of the trials runs."""
    step_costs: dict[str, float] = field(default_factory=dict)
    """What a step of each swept objective costs, in steps of flow matching: passes of the network, counted."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `plan --json` prints."""
        content = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}


def make_plan(
    spec: SweepSpec,
    *,
    history: Collection[str] = (),
    resources_available: Mapping[str, float] | None = None,
    probe: Sequence[Measurement] = (),
    missing: Sequence[Problem] = (),
    of_data: Sequence[str] = (),
    spread: tuple[str, float] | None = None,
    thorough: bool = False,
) -> Plan:
    """Plan a sweep.

    Args:
        spec: the sweep.
        history: hashes of configurations that are finished elsewhere.
        resources_available: `{cpu, gpu, <custom>}` of the machine or cluster; None leaves concurrency at one.
        probe: measurements of the cheapest and of the dearest configuration.
        missing: see `orchestrator.planning.preflight.look_here`.
        of_data: see `orchestrator.planning.preflight.Here`.
        spread: see `power_of`.
        thorough: say what needs torch and scipy too: shapes, parameters of the networks, what the seeds can tell.
    """
    notes = [*spec.notes, *of_data]
    grid_size = _grid_size(spec)
    count = _count(spec, grid_size, set(history), notes)
    reused = count.reused if spec.on_duplicate == "reuse" else 0
    trials = count.trials
    replicates = spec.replicates.top * spec.replicates.seeds if spec.replicates else 0
    configs = drawn_configs(spec, COSTED)
    searched = (trials or 0) - reused
    fitting, refusals = _concurrency(spec, resources_available)
    concurrency = min(fitting, max(searched, replicates, 1))
    estimate = estimate_cost(spec, searched, replicates, configs, concurrency, probe)
    return Plan(
        sweep=spec.name,
        method=spec.method.name,
        trials=trials,
        grid_size=grid_size,
        parameters=tuple(_described(spec)),
        forbidden=_forbidden(spec),
        duplicates=count.duplicates,
        reused=count.reused,
        rungs=tuple(spec.rungs(configs[0])[: None if spec.length(configs[0]) < ENDLESS else ENDLESS_RUNGS]),
        replicates=replicates,
        concurrency=concurrency,
        estimate=estimate,
        power=power_of(spec, spread) if thorough else None,
        training=tuple(training_facts(spec, configs, thorough=thorough)),
        over_budget=(*refusals, *_over_budget(spec, grid_size, replicates, estimate)),
        notes=(*notes, *annealing_notes(spec, configs)),
        command=None if spec.program is None else shlex.join(spec.program.words(configs[0], json_file="PARAMETERS")),
        step_costs=step_costs(spec, configs),
        missing=tuple(str(replace(problem, file=None)) for problem in missing),
    )


# --------------------------------------------------------------------------------------------- counting


def _grid_size(spec: SweepSpec) -> int | None:
    if spec.space.continuous():
        return None
    try:
        return spec.space.grid_size()
    except ConfigError:  # too large to be counted
        return None


@dataclass
class _Count:
    trials: int | None
    duplicates: int = 0
    reused: int = 0


def _count(spec: SweepSpec, grid_size: int | None, history: set[str], notes: list[str]) -> _Count:
    """Count the trials of the search: of a finite space at most its different configurations."""
    limits = [limit for limit in (spec.run_cap, spec.budget.trials) if limit is not None]
    cap = min(limits) if limits else None
    if grid_size is None or spec.method.repeats(spec.on_duplicate):
        return _Count(cap)
    if not spec.method.exhaustive and (cap is None or grid_size < cap):
        notes.append(f"only {grid_size} combinations exist; a grid would try each of them once")
    if grid_size > CONFIGS:
        notes.append(f"equal configurations are not looked for in a space of more than {CONFIGS} combinations")
        return _Count(grid_size if cap is None else min(grid_size, cap))
    count = _Count(0)
    seen: set[str] = set()
    invalid = trials = 0
    reuses = spec.method.reuses and spec.on_duplicate != "run"
    for values in spec.space.grid():
        if trials == cap:
            break
        try:
            config = spec.config_for(values, seed=values.get("seed", spec.seed))
        except ConfigError:
            invalid += 1
            continue
        mark = spec.config_hash(config)
        new, known = mark not in seen, mark in history and reuses
        count.duplicates += not new
        count.reused += new and known
        trials += new and not (known and spec.on_duplicate == "skip")
        seen.add(mark)
    if invalid:
        notes.append(f"{invalid} combinations break a rule of the training configuration and are skipped")
    count.trials = trials
    return count


def _forbidden(spec: SweepSpec) -> float:
    if not spec.space.forbid:
        return 0.0
    chance = random.Random(spec.seed)
    drawn = (spec.space.suggest(lambda p: p.from_unit(chance.random())) for _ in range(DRAWS))
    return sum(not spec.space.allowed(values) for values in drawn) / DRAWS


def _described(spec: SweepSpec) -> list[dict[str, str]]:
    return [
        {
            "name": parameter.name,
            "distribution": parameter.distribution,
            "range": str(parameter),
            "when": " and ".join(str(condition) for condition in parameter.when),
        }
        for parameter in spec.space.parameters
    ]


def _concurrency(spec: SweepSpec, available: Mapping[str, float] | None) -> tuple[int, list[str]]:
    fitting, refusals = 1, []
    if available is not None:
        fitting = spec.resources.concurrency(available)
        if fitting == 0:
            needs = {"cpu": spec.resources.cpu, "gpu": spec.resources.gpu, **spec.resources.custom}
            each = "" if spec.resources.workers == 1 else f" for each of {spec.resources.workers} workers"
            asked = ", ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount)
            there = ", ".join(f"{amount:g} {name}" for name, amount in available.items())
            refusals.append(f"no trial fits: one needs {asked}{each}, and there is {there}")
    elif spec.max_concurrent:
        fitting = spec.max_concurrent
    return min(fitting, spec.max_concurrent or fitting), refusals


def _over_budget(spec: SweepSpec, grid_size: int | None, replicates: int, estimate: Estimate) -> list[str]:
    budget, found = spec.budget, []
    wanted = spec.run_cap or (grid_size if spec.method.exhaustive else None)
    if budget.trials is not None and wanted is not None and wanted + replicates > budget.trials:
        found.append(f"{wanted} trials and up to {replicates} replicates, budget.trials is {budget.trials}")
    if budget.gpu_hours is not None and (estimate.gpu_hours or 0) > budget.gpu_hours:
        found.append(f"about {estimate.gpu_hours:.3g} GPU-hours, budget.gpu_hours is {budget.gpu_hours:g}")
    if budget.wall_clock is not None and (estimate.wall_seconds or 0) > budget.wall_clock:
        wall = spoken_seconds(estimate.wall_seconds or 0)
        found.append(f"about {wall} of wall clock, budget.wall_clock is {spoken_seconds(budget.wall_clock)}")
    return found


def against_actual(plan: Mapping[str, Any], actual: Mapping[str, float]) -> list[dict[str, Any]]:
    """Compare what was planned with what was spent.

    Args:
        plan: a plan's `to_dict`.
        actual: any of `trials`, `trainings`, `steps`, `wall_seconds`, `work_seconds`, `gpu_hours`, `disk_bytes`.

    Returns:
        For each amount known on both sides `{what, planned, actual, ratio}`; ratio is actual over planned.
    """
    planned = {"trials": plan.get("trials"), **plan["estimate"]}
    return [
        {"what": what, "planned": planned[what], "actual": amount, "ratio": amount / planned[what]}
        for what, amount in actual.items()
        if planned.get(what)
    ]


# ------------------------------------------------------------------------------------------------- text


def render_plan(plan: Plan) -> str:
    """Return the plan as plain text, one fact a line."""
    lines = [
        f"{plan.sweep}: {plan.method}, " + ("until the budget ends" if plan.trials is None else f"{plan.trials} trials")
    ]
    lines += [f"{fact.what:<15} {fact}" for fact in plan.training]
    lines.append("searched")
    width = max((len(p["name"]) for p in plan.parameters), default=0)
    for parameter in plan.parameters:
        when = f"   when {parameter['when']}" if parameter["when"] else ""
        lines.append(f"  {parameter['name']:<{width}}  {parameter['range']}{when}")
    if plan.command is not None:
        lines.append(f"runs            {plan.command}")
    if plan.grid_size is not None:
        lines.append(f"combinations    {plan.grid_size} after conditions and forbidden ones")
    if plan.forbidden:
        lines.append(f"forbidden       {plan.forbidden:.1%} of random combinations")
    if plan.duplicates or plan.reused:
        lines.append(f"known already   {plan.duplicates} repeat an earlier trial, {plan.reused} are finished elsewhere")
    if plan.rungs:
        more = ", ..." if plan.estimate.steps is None else ""
        lines.append(f"rungs           steps {', '.join(str(step) for step in plan.rungs)}{more}")
    if plan.replicates:
        lines.append(f"replicates      up to {plan.replicates} more trainings")
    if plan.power is not None:
        lines.append(f"seeds           {plan.power}")
    lines.append(f"at once         {plan.concurrency}")
    lines += _estimate_lines(plan.estimate)
    if plan.step_costs:
        costs = ", ".join(f"{name} {cost:.2f}" for name, cost in plan.step_costs.items())
        lines.append(f"cost of a step  {costs}, in steps of flow matching (passes counted)")
    lines += [f"note: {note}" for note in plan.notes]
    lines += [f"does not fit: {reason}" for reason in plan.over_budget]
    lines += [f"missing here: {problem}" for problem in plan.missing]
    return "\n".join(lines)


def _estimate_lines(estimate: Estimate) -> list[str]:
    if estimate.steps is None:
        return [f"trainings       {estimate.trainings}; the program itself says how long each is"]
    saved = f", {estimate.saved:.0%} saved by early stopping" if estimate.saved else ""
    lines = [f"steps           {estimate.steps:,.0f} in {estimate.trainings} trainings{saved}"]
    if estimate.wall_seconds is None or estimate.wall_range is None:
        return [*lines, "cost            not measured; --probe trains a few steps to tell"]
    low, high = estimate.wall_range
    lines.append(
        f"wall clock      about {spoken_seconds(estimate.wall_seconds)}"
        f" ({spoken_seconds(low)} to {spoken_seconds(high)}) on {estimate.device}"
    )
    if estimate.gpu_hours:
        lines.append(f"GPU-hours       about {estimate.gpu_hours:.3g}")
    memory = f"{(estimate.peak_memory or 0) / 2**20:,.0f} MiB"
    held = f" a worker at most, each of {estimate.shards} with its shard" if estimate.shards > 1 else ""
    lines.append(f"memory a trial  {memory}{held}")
    lines.append(f"checkpoints     {(estimate.disk_bytes or 0) / 2**20:,.0f} MiB")
    return lines


def spoken_seconds(seconds: float) -> str:
    """Return a duration as people say it: 95 -> `1m35s`, 5400 -> `1h30m`."""
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours / 24:.1f}d"
