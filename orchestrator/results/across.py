"""Several sweeps side by side: their bests, what differs between them, and what it cost each to get there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.results.comparison import curve_of
from orchestrator.results.leaderboard_rows import Row, leaderboard
from orchestrator.results.sweep_status import standing
from orchestrator.spec import flat
from orchestrator.statistics import ALPHA, has_ratios, holm, paired_effect
from orchestrator.trials import TrialRecord, TrialState, better

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from orchestrator.spec import SweepSpec

CODE = {
    "code": "training code",
    "own_code": "your own code",
    "data": "data",
    "fingerprint": "fingerprint of the data",
    "device": "device",
    "torch": "torch",
    "packages": "installed packages",
}
"""What of the environment results depend on, in words."""


@dataclass(frozen=True)
class Reached:
    """One of the reports of a sweep, with what all its work had cost by then."""

    value: float
    """The best value so far."""
    trial: str
    step: int
    trials: int
    """Trials that had reported."""
    seconds: float
    """Time of workers on all of them."""
    gpu_hours: float


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the sweeps."""

    spec: SweepSpec
    trials: Sequence[TrialRecord]
    environment: Mapping[str, Any]
    wall_seconds: float
    path: tuple[Reached, ...]
    """The best value so far, a point each time that it became better."""

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.spec.name


@dataclass(frozen=True, kw_only=True)
class SweepComparison:
    """Several sweeps with one ranking metric."""

    sides: tuple[Side, ...]
    metric: str
    goal: str
    spec: SweepSpec
    """Stands for all of them: the first one's, under all names."""
    trials: tuple[TrialRecord, ...]
    """Of all of them; a trial's id is `sweep/trial`."""
    rows: tuple[Row, ...]
    """The leaderboard of all trials."""
    bests: dict[str, Row | None]
    """Sweep -> its best configuration, compared with the best of all on the seeds that they share."""
    differences: dict[str, tuple[str | None, ...]]
    """What differs between the sweeps, in words, with the value of each."""
    target: float | None
    """The value whose cost is told: by default the best that all of them have reached."""
    cost: dict[str, Reached | None]
    """Sweep -> where it reached the target; None: it did not."""

    def to_json(self) -> dict[str, Any]:
        """Return what `compare --json` prints of sweeps."""
        return {
            "sweeps": [side.name for side in self.sides],
            "metric": self.metric,
            "goal": self.goal,
            "at": self.spec.metric.at.to_json(),
            "bests": {name: row and row_json(row) for name, row in self.bests.items()},
            "differences": [{"what": key, "values": list(values)} for key, values in self.differences.items()],
            "curves": {
                name: {str(step): value for step, value in curve_of(row.group, self.metric).items()}
                for name, row in self.bests.items()
                if row
            },
            "target": self.target,
            "cost": {name: found and vars(found) for name, found in self.cost.items()},
            "verdict": sweeps_verdict(self),
        }


def side_of(ledger: Ledger) -> Side:
    """Return what is compared of a sweep."""
    spec = ledger.spec()
    return Side(
        spec=spec,
        trials=standing(ledger),
        environment=ledger.environment(),
        wall_seconds=ledger.wall_seconds,
        path=tuple(_path(ledger, spec)),
    )


def compare_sweeps(sides: Sequence[Side], *, target: float | None = None) -> SweepComparison:
    """Compare several sweeps.

    Args:
        sides: the sweeps, two or more.
        target: the value of the metric whose cost is told; None: the worst of their bests.

    Raises:
        ConfigError: they do not rank by one metric, or one is named twice.
    """
    first = sides[0].spec.metric
    problems = [
        Problem(
            key="SWEEP",
            value=side.name,
            rule=f"ranks by {side.spec.metric.words}, and {sides[0].name} by {first.words}; only sweeps with one "
            "ranking metric can be compared",
        )
        for side in sides[1:]
        if side.spec.metric.words != first.words
    ]
    names = [side.name for side in sides]
    problems += [
        Problem(key="SWEEP", value=name, rule="is named twice")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if problems:
        raise ConfigError(problems)
    spec, trials = merged(sides)
    rows = leaderboard(spec, trials)
    bests = _against_each_other({side.name: _best(rows, side.name) for side in sides}, first.goal)
    if target is None:
        reached = [side.path[-1].value for side in sides if side.path]
        worst = max if first.goal == "minimize" else min
        target = worst(reached) if len(reached) == len(sides) else None
    return SweepComparison(
        sides=tuple(sides),
        metric=first.name,
        goal=first.goal,
        spec=spec,
        trials=tuple(trials),
        rows=tuple(rows),
        bests=bests,
        differences=_differences(sides),
        target=target,
        cost={side.name: None if target is None else _first(side.path, target, first.goal) for side in sides},
    )


def merged(sides: Sequence[Side]) -> tuple[SweepSpec, list[TrialRecord]]:
    """Return the sweeps as one: a spec that ranks by their metric, and all trials under ids `sweep/trial`."""
    trials, first = [], 0
    for side in sides:
        trials += [
            replace(trial, id=f"{side.name}/{trial.id}", config_id=first + trial.config_id) for trial in side.trials
        ]
        first += 1 + max((trial.config_id for trial in side.trials), default=0)
    name = " + ".join(side.name for side in sides)
    spec = sides[0].spec
    return replace(spec, name=name, metrics=spec.metrics[:1], description=""), trials


def sweep_of(row: Row) -> str:
    """Return the sweep of a row of a merged leaderboard."""
    return row.trial.partition("/")[0]


def row_json(row: Row) -> dict[str, Any]:
    """Return a row of a merged leaderboard as `leaderboard --json` has it, with its sweep and its id there."""
    return {**row.to_json(), "sweep": sweep_of(row), "trial": row.trial.partition("/")[2]}


def sweeps_verdict(found: SweepComparison) -> str:
    """Return which sweep is best, and whether that is more than chance, in sentences."""
    from orchestrator.formatting import count, p_value
    from orchestrator.results.effect_text import effect_text
    from orchestrator.results.leaderboard_text import interval_text

    ranked = [row for row in found.bests.values() if row is not None and row.state is TrialState.FINISHED]
    if not ranked:
        return "No trial of these sweeps has finished yet."
    best = min(ranked, key=lambda row: row.rank or math.inf)
    told = [
        f"{sweep_of(best)} is best: its trial {best.trial.partition('/')[2]} has {found.metric} {interval_text(best)}."
    ]
    for row in sorted(ranked, key=lambda row: row.rank or math.inf):
        if row is best:
            continue
        who = f"That of {sweep_of(row)} (trial {row.trial.partition('/')[2]}, {interval_text(row)})"
        effect, p = row.vs_best, row.p_value_vs_best
        if row.bad_seeds:
            told.append(f"{who} is unstable.")
        elif effect is None:
            told.append(f"{who} shares no seed with it.")
        elif p is None:
            told.append(f"{who} is {effect_text(effect)} on the one seed they share, which may be chance.")
        elif p < ALPHA:
            told.append(f"{who} is {effect_text(effect)} ({p_value(p)}, {count(effect.n, 'shared seed')}).")
        else:
            told.append(f"{who} is not separable from it with {count(effect.n, 'seed')}: it is {effect_text(effect)}.")
    lengths = {row.steps for row in ranked}
    if len(lengths) > 1:
        steps = ", ".join(f"{sweep_of(row)} {row.steps}" for row in ranked)
        told.append(f"They were trained for different numbers of steps ({steps}).")
    return " ".join(told)


# ------------------------------------------------------------------------------------------------- parts


def _best(rows: Iterable[Row], name: str) -> Row | None:
    return next((row for row in rows if sweep_of(row) == name and row.rank is not None), None)


def _against_each_other(bests: Mapping[str, Row | None], goal: str) -> dict[str, Row | None]:
    """Compare the bests with the best of them, and with nothing else: the correction is for their number."""
    ranked = [r for r in bests.values() if r and r.state is TrialState.FINISHED]
    if not ranked:
        return dict(bests)
    first = min(ranked, key=lambda row: row.rank or math.inf)
    ratio = has_ratios(value for row in ranked for value in row.seeds.values())
    effects = {
        row.trial: paired_effect(row.seeds, first.seeds, ratio=ratio, goal=goal)
        for row in ranked
        if row is not first and not row.bad_seeds and not first.bad_seeds
    }
    corrected = dict(
        zip(effects, holm([effect.p_value if effect else None for effect in effects.values()]), strict=True)
    )
    found: dict[str, Row | None] = {}
    for name, row in bests.items():
        if row is None:
            found[name] = None
            continue
        p = corrected.get(row.trial)
        tied = True if row is first else None if p is None else p >= ALPHA
        found[name] = replace(row, vs_best=effects.get(row.trial), p_value_vs_best=p, tied_with_best=tied)
    return found


def _path(ledger: Ledger, spec: SweepSpec) -> Iterable[Reached]:
    """Yield the best value so far with the cost of all work until then, in the order of the reports."""
    goal = spec.metric.goal
    points = [
        (point.order, history.id, step, point, history.birth.gpu, scores[step])
        for history in ledger.histories()
        for scores in [history.scores()]
        for step, point in history.points.items()
        if point.order  # of another sweep otherwise, and free
    ]
    best, seconds, gpu, seen = math.nan, 0.0, 0.0, set[str]()
    for _, trial, step, point, share, value in sorted(points, key=lambda found: found[0]):
        seconds, gpu = seconds + point.seconds, gpu + point.seconds * share
        seen.add(trial)
        if math.isfinite(value) and (math.isnan(best) or better(value, best, goal)):
            best = value
            yield Reached(best, trial, step, len(seen), seconds, gpu / 3600)


def _first(path: Sequence[Reached], target: float, goal: str) -> Reached | None:
    return next((point for point in path if not better(target, point.value, goal)), None)


def _differences(sides: Sequence[Side]) -> dict[str, tuple[str | None, ...]]:
    """Return what differs: the searched space, the fixed values, how it was searched, and what trained."""
    spaces = [{p.name: str(p) for p in side.spec.space.parameters} for side in sides]
    fixed = [{key: _plain(value) for key, value in {**flat(s.spec.base), **s.spec.set}.items()} for s in sides]
    found: dict[str, tuple[str | None, ...]] = {}
    for key in dict.fromkeys(name for space in spaces for name in space):
        values = tuple(
            f"searched: {space[key]}" if key in space else values.get(key)
            for space, values in zip(spaces, fixed, strict=True)
        )
        found[key] = values
    swept = set(found)
    for key in dict.fromkeys(name for values in fixed for name in values):
        if key not in swept:
            found[key] = tuple(values.get(key) for values in fixed)
    blocks = ("method", "run_cap", "early_terminate", "replicates", "budget", "resources", "forbid", "try_first")
    for key in blocks:
        given = [side.spec.source["sweep"].get(key) for side in sides]
        found[key] = tuple(None if value is None else _plain(value) for value in given)
    for key, words in CODE.items():
        known = [side.environment.get(key) for side in sides]
        found[words] = tuple(None if value is None else _plain(value) for value in known)
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _plain(value: Any) -> str:
    from orchestrator.formatting import number

    return number(value)
