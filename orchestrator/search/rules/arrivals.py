"""How many trials get to each rung: what successive halving costs, before it starts."""

from __future__ import annotations

import math
import random
from bisect import insort
from functools import cache

PLAYED = 2000
"""Most trials of a simulated sweep; a longer one is taken to go on as it began."""


def keep_count(total: int, eta: float) -> int:
    """Return how many of `total` trials at a rung go on: one in eta, rounded up.

    Rounded up, because the rule meets few trials at a late rung: rounded down, the second of five would be stopped
    though it may be the best of all when it ends, and it is never asked again.
    """
    return max(1, math.ceil(total / eta - 1e-9))


def arrivals(trials: int, rungs: int, eta: float) -> tuple[float, ...]:
    """Return the mean number of trials at each rung and at the end, where trials are stopped at rungs."""
    played = min(trials, PLAYED)
    return tuple(count * trials / max(played, 1) for count in _arrivals(played, rungs, eta))


def promotions(trials: int, rungs: int, eta: float) -> tuple[float, ...]:
    """Return the mean number of trials at each rung and at the end, where trials wait at rungs to be promoted."""
    played = min(trials, PLAYED)
    return tuple(count * trials / max(played, 1) for count in _promotions(played, rungs, eta))


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
def _promotions(trials: int, rungs: int, eta: float) -> tuple[float, ...]:
    """The same where trials wait at rungs to be promoted.

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
