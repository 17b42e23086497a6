"""More seeds for the best configurations: which one comes next, as a function of what is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from orchestrator.limits import Limits
from orchestrator.search.sweep import Goal
from orchestrator.statistics import has_ratios, separable_from_best
from orchestrator.trials import TrialRecord, TrialState, best_first, group_by_config


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """More seeds for the best configurations, to tell them apart."""

    top: Annotated[int, Limits(low=1)] = 3
    """Configurations that get more seeds."""
    seeds: Annotated[int, Limits(low=1)] = 3
    """Additional seeds of each; with `race`, the largest number."""
    race: bool = False
    """Add seeds one by one, and only to configurations that are not separable from the best."""


@dataclass(frozen=True)
class Replicate:
    """One more seed of one configuration. Replicate n trains with the configuration's seed + n, so that replicates of
    the same number share their data order and noise across configurations."""

    config_id: int
    replicate: int


def next_replicate(rule: Replicates | None, metric: Goal, trials: Sequence[TrialRecord]) -> Replicate | None:
    """Return the replicate to start next; None if none is wanted, or none before others have ended.

    Call it when the search is through and no trial of it runs. The contenders are its best `top` configurations by
    their searched trial. Seeds are added round by round. With `race`, a configuration that is significantly worse
    than the best one on the seeds they share (paired t-test, on logarithms where the metric is above zero, corrected
    by Holm), or of which a seed diverged or collapsed while others are sound, gets no more, and the race is over when
    one is left.

    Args:
        rule: the sweep's; None wants none.
        metric: what ranks.
        trials: all trials of the sweep.
    """
    if rule is None:
        return None
    searched = [trial for trial in trials if not trial.replicate and trial.state is TrialState.FINISHED]
    contenders = [trial.config_id for trial in best_first(searched, metric.goal)[: rule.top]]
    begun = {(trial.config_id, trial.replicate): trial for trial in trials}
    for number in range(1, rule.seeds + 1):
        if rule.race and number > 1:
            round_before = [begun.get((config, number - 1)) for config in contenders]
            if any(trial is not None and not trial.state.ended for trial in round_before):
                return None  # who still races is known when the round is complete
            contenders = _still_racing(metric, begun, contenders, number)
            if len(contenders) < 2:
                return None
        for config in contenders:
            if (config, number) not in begun:
                return Replicate(config, number)
    return None


def _still_racing(
    metric: Goal, begun: dict[tuple[int, int], TrialRecord], contenders: Sequence[int], number: int
) -> list[int]:
    """Return the configurations not separable from the best after the replicates before `number`, best first.

    One of which a seed diverged or collapsed is out while there are others: it ranks behind them whatever its mean.
    """
    sign = 1.0 if metric.goal == "minimize" else -1.0
    runs = [run for (config, replicate), run in begun.items() if config in contenders and replicate < number]
    groups = group_by_config(runs)
    stable = [group for group in groups if not group.bad_seeds(metric.name, metric.goal)]
    values = {group.searched.config_id: group.by_seed() for group in stable or groups}
    ranked = sorted((config for config in values if values[config]), key=lambda config: sign * _mean(values[config]))
    ratio = has_ratios(value for config in ranked for value in values[config].values())
    told = separable_from_best([values[config] for config in ranked], ratio=ratio)
    return [config for config, separable in zip(ranked, told, strict=True) if not separable]


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)
