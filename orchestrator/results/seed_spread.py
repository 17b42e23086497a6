"""How much a metric differs from seed to seed, as the sweeps of a home have seen it."""

from __future__ import annotations

import logging

from orchestrator.ledger import Ledger, LedgerError
from orchestrator.paths import Home
from orchestrator.statistics import pair_deviation
from orchestrator.trials import group_by_config

log = logging.getLogger(__name__)


def seen_spread(home: Home, metric: str) -> tuple[str, float] | None:
    """Return the sweep that knows best how a metric differs from seed to seed, and `pair_deviation` of it there.

    Args:
        home: its sweeps are looked at; of those that rank by the metric, the one with most replicates.
        metric: name of the ranking metric.
    """
    best: tuple[int, str, float] | None = None
    for paths in home.all_sweeps():
        try:
            ledger = Ledger.open(paths)
        except LedgerError as error:
            log.warning("skipping %s: %s", paths.name, error)
            continue
        spec = ledger.spec()
        if spec.metric.name != metric:
            continue
        groups = group_by_config(ledger.trials())
        stable = [group.by_seed() for group in groups if not group.bad_seeds(metric, spec.metric.goal)]
        deviation = pair_deviation(stable)
        size = sum(len(group) - 1 for group in stable)
        if deviation and (best is None or size > best[0]):
            best = (size, paths.name, deviation)
    return best and best[1:]
