"""Two trials side by side: what differs in their configurations, their curves, and whether the difference is real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.formatting import count, number, p_value, plus_minus
from orchestrator.results.leaderboard_text import bad_seeds_text, interval_text
from orchestrator.spec import Metric
from orchestrator.statistics import ALPHA, mean_ci, paired_test
from orchestrator.trials import Group, TrialRecord, better, group_by_config, value_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.spec import SweepSpec

Comparison = dict[str, Any]
"""What `compare --json` prints."""


def compare(spec: SweepSpec, trials: Sequence[TrialRecord], first: str, second: str) -> Comparison:
    """Compare two configurations over all their seeds; a replicate stands for its configuration.

    Args:
        spec: the sweep.
        trials: every trial of its ledger.
        first: id of a trial.
        second: id of another trial, of another configuration.

    Raises:
        ConfigError: an id is unknown, or both are seeds of one configuration.
    """
    groups = {group.searched.config_id: group for group in group_by_config(trials)}
    known = {trial.id: trial.config_id for trial in trials}
    problems = [
        Problem(key="TRIAL", value=name, rule="no such trial", nearest=nearest(name, list(known)))
        for name in (first, second)
        if name not in known
    ]
    if not problems and known[first] == known[second]:
        problems.append(Problem(key="TRIAL", value=second, rule=f"is a seed of the same configuration as {first}"))
    if problems:
        raise ConfigError(problems)
    a, b = groups[known[first]], groups[known[second]]
    left, right = a.searched.values, b.searched.values
    names = [*left, *(name for name in right if name not in left)]
    curves = (_curve(a, spec.metric.name), _curve(b, spec.metric.name))
    return {
        "sweep": spec.name,
        "metric": spec.metric.name,
        "goal": spec.metric.goal,
        "trials": [_side(group, spec.metric) for group in (a, b)],
        "differences": [
            {"key": name, "values": [left.get(name), right.get(name)]}
            for name in names
            if left.get(name) != right.get(name)
        ],
        "same": {name: left[name] for name in names if name in left and left[name] == right.get(name)},
        "curve": [
            {"step": step, "values": [curve.get(step) for curve in curves]} for step in sorted({*curves[0], *curves[1]})
        ],
        "test": _test(a, b, spec.metric),
    }


def compare_table(spec: SweepSpec, found: Comparison, *, rows: int = 12) -> RenderableType:
    """Return a comparison for a terminal.

    Args:
        spec: the sweep.
        found: of `compare`.
        rows: the most steps of the curves that are shown, evenly spaced; the last one always is.
    """
    from rich import box
    from rich.console import Group as Stack
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for side in found["trials"]:
        table.add_column(f"trial {side['trial']}", justify="right", no_wrap=True)
    table.add_row("state", *(side["failure"] or side["state"] for side in found["trials"]))
    table.add_row(found["metric"], *(interval_text(side) for side in found["trials"]), style="bold")
    table.add_row("seeds", *(str(side["n"]) for side in found["trials"]), end_section=True)
    for entry in found["differences"]:
        table.add_row(entry["key"], *(number(value) for value in entry["values"]))
    if not found["differences"]:
        table.add_row("(no swept key differs)", "", "")
    table.add_section()
    curve = found["curve"]
    stride = max(math.ceil(len(curve) / rows), 1)
    for entry in curve[(len(curve) - 1) % stride :: stride]:
        best = _better(entry["values"], found["goal"])
        cells = [Text(number(value), style="green" if i == best else "") for i, value in enumerate(entry["values"])]
        table.add_row(f"at step {entry['step']}", *cells)
    return Stack(table, Text(found["test"]["verdict"], style="bold"))


def _side(group: Group, metric: Metric) -> dict[str, Any]:
    interval = group.interval()
    record = group.searched
    return {
        "trial": record.id,
        "state": record.state.value,
        "failure": record.failure.kind if record.failure else None,
        "mean": interval.mean if interval else None,
        "ci95": [interval.low, interval.high] if interval and interval.n > 1 else None,
        "n": interval.n if interval else 0,
        "steps": record.steps,
        "seeds": group.by_seed(),
        "bad_seeds": _bad_seeds(group, metric),
    }


def _bad_seeds(group: Group, metric: Metric) -> list[dict[str, Any]]:
    return [asdict(seed) for seed in group.bad_seeds(metric.name, metric.goal)]


def _curve(group: Group, metric: str) -> dict[int, float]:
    """Return step -> mean over the seeds that count; at a step which not all of them have, over those that do."""
    found: dict[int, list[float]] = {}
    for run in group.runs or (group.searched,):
        for step, report in run.reports.items():
            if math.isfinite(report.get(metric, math.nan)):
                found.setdefault(step, []).append(report[metric])
    return {step: math.fsum(values) / len(values) for step, values in found.items()}


def _test(a: Group, b: Group, metric: Metric) -> dict[str, Any]:
    """Return the paired test: `difference` is first minus second over the shared seeds."""
    left, right = a.by_seed(), b.by_seed()
    shared = sorted(left.keys() & right.keys())
    differences = [left[seed] - right[seed] for seed in shared]
    interval = mean_ci(differences) if differences else None
    p = paired_test(left, right)
    stable = not _bad_seeds(a, metric) and not _bad_seeds(b, metric)
    real = p is not None and p < ALPHA and stable and a.searched.steps == b.searched.steps
    return {
        "seeds": shared,
        "difference": interval.mean if interval else None,
        "ci95": [interval.low, interval.high] if interval and interval.n > 1 else None,
        "p_value": p,
        "better": _winner(a, b, interval.mean, metric.goal) if real and interval else None,
        "verdict": _verdict(a, b, shared, interval.mean if interval else None, p, metric),
    }


def _verdict(
    a: Group, b: Group, shared: Sequence[int], difference: float | None, p: float | None, metric: Metric
) -> str:
    for group in (a, b):
        if value_of(group.searched) is None:
            record = group.searched
            why = f"{record.failure.kind}: {record.failure.reason}" if record.failure else record.state.value
            return f"No comparison: trial {record.id} has no result ({why})."
    if a.searched.steps != b.searched.steps:
        steps = f"{a.searched.steps} and {b.searched.steps}"
        return f"The results were taken at different steps ({steps}); compare the curves where both have a value."
    if difference is None:
        return "No comparison: the two share no seed."
    unstable = _unstable(a, b, shared, metric)
    if unstable:
        return unstable
    winner = _winner(a, b, difference, metric.goal)
    ahead = number(abs(difference), 3)
    if p is None:
        return f"Trial {winner} is ahead by {ahead} on the one seed they share, which may be chance."
    left, right = a.by_seed(), b.by_seed()
    half = mean_ci([left[seed] - right[seed] for seed in shared]).half_width
    by = f"{plus_minus(abs(difference), half)} ({p_value(p)}, {count(len(shared), 'shared seed')})"
    if p < ALPHA:
        return f"Trial {winner} is better by {by}."
    return f"Tied: trial {winner} is ahead by {by}, which may be chance."


def _unstable(a: Group, b: Group, shared: Sequence[int], metric: Metric) -> str:
    """Return what can be said where seeds went wrong, which no mean speaks for; empty where none did."""
    wrong = [(group.searched.id, bad) for group in (a, b) if (bad := _bad_seeds(group, metric))]
    if not wrong:
        return ""
    left, right = a.by_seed(), b.by_seed()
    wins = sum(better(left[seed], right[seed], metric.goal) for seed in shared)
    told = "; ".join(f"trial {trial} is unstable, {bad_seeds_text({'bad_seeds': bad})}" for trial, bad in wrong)
    score = f"trial {a.searched.id} is better on {wins} of {count(len(shared), 'shared seed')}"
    return f"No test of means: {told}; {score}."


def _winner(a: Group, b: Group, difference: float, goal: str) -> str:
    first = difference < 0 if goal == "minimize" else difference > 0
    return a.searched.id if first else b.searched.id


def _better(values: Sequence[float | None], goal: str) -> int | None:
    left, right = values
    if left is None or right is None or left == right:
        return None
    return int((left > right) == (goal == "minimize"))
