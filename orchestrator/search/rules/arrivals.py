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


def promotions(trials: int, rungs: int, eta: float, through: int = 0) -> tuple[float, ...]:
    """Return the mean number of trials at each rung and at the end, where trials wait at rungs to be promoted.

    Args:
        trials: all of them.
        rungs: their number.
        eta: one in eta goes on.
        through: of the trials, those that no rung holds.
    """
    played = min(trials, PLAYED)
    counts = _promotions(played, rungs, eta, round(through * played / max(trials, 1)))
    return tuple(count * trials / max(played, 1) for count in counts)


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
def _promotions(trials: int, rungs: int, eta: float, through: int) -> tuple[float, ...]:
    """The same where trials wait at rungs to be promoted: as many go on as there are places, the best first."""
    chance, totals = random.Random(0), [0] * (rungs + 1)
    free = {round((at + 1) * trials / through) - 1 for at in range(through)} if through else set()
    for _ in range(repeats := max(3, min(100, 3_000 // max(trials, 1)))):
        come, waiting = [0] * (rungs + 1), [list[float]() for _ in range(rungs)]

        def arrive(rung: int, value: float, come: list[int] = come, waiting: list[list[float]] = waiting) -> None:
            come[rung] += 1
            if rung < rungs:
                insort(waiting[rung], value)

        def promote(last: bool, come: list[int] = come, waiting: list[list[float]] = waiting) -> bool:
            for rung in reversed(range(rungs)):
                places = keep_count(come[rung], eta) if last else int(come[rung] / eta + 1e-9)
                if waiting[rung] and come[rung] - len(waiting[rung]) < places:
                    arrive(rung + 1, waiting[rung].pop(0))
                    return True
            return False

        for number in range(trials):
            if number in free:
                for rung in range(rungs + 1):
                    come[rung] += 1
            else:
                arrive(0, chance.random())
            while promote(False):
                pass
        while promote(True):
            pass
        totals = [total + count for total, count in zip(totals, come, strict=True)]
    return tuple(total / repeats for total in totals)
