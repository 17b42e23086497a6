"""How much worse one configuration is than another, in words."""

from __future__ import annotations

import math

from orchestrator.formatting import number, plus_minus
from orchestrator.statistics import Effect


def effect_text(effect: Effect) -> str:
    """Return `1.9 times worse [1.2, 3.0]`, or of a difference `worse by 0.21 ± 0.09`; `better` where it is ahead."""
    seen, word = (effect.turned, "better") if effect.is_better else (effect, "worse")
    return f"{_times(seen, ' times')} {word}{_interval(seen)}" if seen.ratio else f"{word} by {_amount(seen)}"


def effect_cell(effect: Effect, *, brief: bool = False) -> str:
    """Return the same for a column of a table: `1.9x [1.2, 3.0]`, `+0.21 ± 0.09`; `brief` without the interval."""
    if effect.ratio:
        return f"{_times(effect, 'x')}{'' if brief else _interval(effect)}"
    amount = number(effect.worse, 2) if brief else _amount(effect)
    return amount if amount.startswith("-") else f"+{amount}"


def _times(effect: Effect, unit: str) -> str:
    return f"{effect.worse:.{_decimals(effect)}f}{unit}"


def _interval(effect: Effect) -> str:
    if effect.ci95 is None:
        return ""
    low, high = (_end(end, _decimals(effect)) for end in effect.ci95)
    return f" [{low}, {high}]"


def _end(value: float, decimals: int) -> str:
    """Return an end of the interval; ends far away, as with two seeds, in a few characters."""
    return f"{value:.{decimals}f}" if 0.05 <= value < 1000 else number(value, 2)


def _decimals(effect: Effect) -> int:
    """Return how many decimals show the nearer end of the interval apart from the quotient, or that from 1."""
    near = abs(effect.worse - 1) if effect.ci95 is None else min(abs(effect.worse - end) for end in effect.ci95)
    return 2 if near < 1e-9 else min(max(-math.floor(math.log10(near / 2)), 1), 4)


def _amount(effect: Effect) -> str:
    if effect.ci95 is None:
        return number(effect.worse, 3)
    return plus_minus(effect.worse, (effect.ci95[1] - effect.ci95[0]) / 2)
