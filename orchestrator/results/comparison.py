"""Two trials side by side: what differs in their configurations, their curves, and whether the difference is real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.formatting import count, number, p_value
from orchestrator.results.effect_text import effect_text
from orchestrator.results.leaderboard_rows import Row, compared_by_ratio, unranked
from orchestrator.results.leaderboard_text import bad_seeds_text, interval_text, state_text
from orchestrator.statistics import ALPHA, Effect, mean_ci, paired_effect
from orchestrator.trials import At, Group, TrialRecord, better, group_by_config

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.spec import SweepSpec


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two configurations side by side."""

    sweep: str
    metric: str
    goal: str
    at: At
    """Which reports count."""
    sides: tuple[Row, Row]
    differences: dict[str, tuple[Any, Any]]
    """The swept keys that differ, with both values; None where a side has none."""
    same: dict[str, Any]
    """The swept keys that do not."""
    curve: dict[int, tuple[float | None, float | None]]
    """By step, the means over the seeds of each side."""
    test: PairedTest

    def to_json(self) -> dict[str, Any]:
        """Return what `compare --json` prints."""
        return {
            "sweep": self.sweep,
            "metric": self.metric,
            "goal": self.goal,
            "at": self.at.to_json(),
            "trials": [_side(row) for row in self.sides],
            "differences": [{"key": key, "values": list(values)} for key, values in self.differences.items()],
            "same": self.same,
            "curve": [{"step": step, "values": list(values)} for step, values in self.curve.items()],
            "test": self.test.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Whether two configurations differ beyond chance, on the seeds they share."""

    seeds: list[int]
    difference: float | None
    """The mean over the shared seeds of the first minus the second."""
    ci95: tuple[float, float] | None
    effect: Effect | None
    """How much worse the second is than the first: their ratio where the metric is above zero in the whole sweep."""
    p_value: float | None
    """Of the effect."""
    better: str | None
    """The trial that is better beyond chance."""
    verdict: str
    """All of it in a sentence."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {
            **asdict(self),
            "ci95": list(self.ci95) if self.ci95 else None,
            "effect": self.effect.to_json() if self.effect else None,
        }


def compare(spec: SweepSpec, trials: Sequence[TrialRecord], first: str, second: str) -> Comparison:
    """Compare two configurations over all their seeds; a replicate means its configuration.

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
    metric = spec.metric
    a, b = (unranked(groups[known[name]], metric.name, metric.goal) for name in (first, second))
    left, right = a.config, b.config
    names = [*left, *(name for name in right if name not in left)]
    curves = (curve_of(a.group, metric.name), curve_of(b.group, metric.name))
    return Comparison(
        sweep=spec.name,
        metric=metric.name,
        goal=metric.goal,
        at=metric.at,
        sides=(a, b),
        differences={n: (left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)},
        same={name: left[name] for name in names if name in left and left[name] == right.get(name)},
        curve={step: (curves[0].get(step), curves[1].get(step)) for step in sorted({*curves[0], *curves[1]})},
        test=_test(a, b, metric.goal, ratio=compared_by_ratio(groups.values())),
    )


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
    for side in found.sides:
        table.add_column(f"trial {side.trial}", justify="right", no_wrap=True)
    table.add_row("state", *(state_text(side) for side in found.sides))
    table.add_row(f"{found.metric}{found.at.words}", *(interval_text(side) for side in found.sides), style="bold")
    table.add_row("seeds", *(str(side.n) for side in found.sides), end_section=True)
    for key, values in found.differences.items():
        table.add_row(key, *(number(value) for value in values))
    if not found.differences:
        table.add_row("(no swept key differs)", "", "")
    table.add_section()
    curve = list(found.curve.items())
    stride = max(math.ceil(len(curve) / rows), 1)
    for step, means in curve[(len(curve) - 1) % stride :: stride]:
        best = _better(means, found.goal)
        cells = [Text(number(value), style="green" if i == best else "") for i, value in enumerate(means)]
        table.add_row(f"at step {step}", *cells)
    return Stack(table, Text(found.test.verdict, style="bold"))


def _side(row: Row) -> dict[str, Any]:
    shown = ("trial", "state", "failure", "mean", "ci95", "n", "steps", "seeds", "bad_seeds")
    return {**{key: row.to_json()[key] for key in shown}, "failure": row.failure.kind if row.failure else None}


def curve_of(group: Group, metric: str) -> dict[int, float]:
    """Return step -> mean over the seeds that count; at a step which not all of them have, over those that do."""
    found: dict[int, list[float]] = {}
    for run in group.runs or (group.searched,):
        for step, report in run.reports.items():
            if math.isfinite(report.get(metric, math.nan)):
                found.setdefault(step, []).append(report[metric])
    return {step: math.fsum(values) / len(values) for step, values in found.items()}


def _test(a: Row, b: Row, goal: str, *, ratio: bool) -> PairedTest:
    left, right = a.seeds, b.seeds
    shared = sorted(left.keys() & right.keys())
    interval = mean_ci([left[seed] - right[seed] for seed in shared]) if shared else None
    effect = paired_effect(right, left, ratio=ratio, goal=goal)
    stable = not a.bad_seeds and not b.bad_seeds
    real = effect is not None and effect.p_value is not None and effect.p_value < ALPHA
    return PairedTest(
        seeds=shared,
        difference=interval.mean if interval else None,
        ci95=interval.bounds if interval else None,
        effect=effect,
        p_value=effect.p_value if effect else None,
        better=_sides(a, b, effect)[0].trial if effect and real and stable and a.steps == b.steps else None,
        verdict=_verdict(a, b, shared, effect, goal),
    )


def _verdict(a: Row, b: Row, shared: Sequence[int], effect: Effect | None, goal: str) -> str:
    for row in (a, b):
        if row.metric is None:
            why = f"{row.failure.kind}: {row.failure.reason}" if row.failure else row.state.value
            return f"No comparison: trial {row.trial} has no result ({why})."
    if a.steps != b.steps:
        steps = f"{a.steps} and {b.steps}"
        return f"The results were taken at different steps ({steps}); compare the curves where both have a value."
    if effect is None:
        return "No comparison: the two share no seed."
    unstable = _unstable(a, b, shared, goal)
    if unstable:
        return unstable
    winner, loser = _sides(a, b, effect)
    behind = effect_text(effect.turned if effect.is_better else effect)
    if effect.p_value is None:
        return f"Trial {loser.trial} is {behind} on the one seed they share, which may be chance."
    told = f"trial {loser.trial} is {behind} ({p_value(effect.p_value)}, {count(len(shared), 'shared seed')})"
    if effect.p_value < ALPHA:
        return f"Trial {winner.trial} is better: {told}."
    return f"Not separable with {count(len(shared), 'seed')}: {told}, which may be chance."


def _sides(a: Row, b: Row, effect: Effect) -> tuple[Row, Row]:
    """Return the one that is ahead and the one that is behind; `effect` is how much worse `b` is."""
    return (b, a) if effect.is_better else (a, b)


def _unstable(a: Row, b: Row, shared: Sequence[int], goal: str) -> str:
    """Return what can be said where seeds went wrong, which no mean speaks for; empty where none did."""
    wrong = [row for row in (a, b) if row.bad_seeds]
    if not wrong:
        return ""
    left, right = a.seeds, b.seeds
    wins = sum(better(left[seed], right[seed], goal) for seed in shared)
    told = "; ".join(f"trial {row.trial} is unstable, {bad_seeds_text(row)}" for row in wrong)
    score = f"trial {a.trial} is better on {wins} of {count(len(shared), 'shared seed')}"
    return f"No test of means: {told}; {score}."


def _better(values: Sequence[float | None], goal: str) -> int | None:
    left, right = values
    if left is None or right is None or left == right:
        return None
    return int((left > right) == (goal == "minimize"))
