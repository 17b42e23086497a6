"""Numbers, durations and names as people read them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any


def number(value: Any, digits: int = 4) -> str:
    """Return a value in a few characters: numbers with `digits` significant ones, the rest as in YAML."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value, default=str)
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    plain, scientific = f"{value:.{digits}g}", f"{value:.{digits - 1}e}"
    mantissa, _, power = scientific.partition("e")
    scientific = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(power)}"
    return scientific if "e" in plain or len(plain) > max(5, len(scientific)) else plain


def plus_minus(mean: float | None, half_width: float | None) -> str:
    """Return `12.3 ± 1.4`: the interval with two digits, the mean with as many decimals."""
    if mean is None or half_width is None or not math.isfinite(half_width) or half_width <= 0:
        return number(mean)
    decimals = 1 - math.floor(math.log10(half_width))
    if not -3 <= decimals <= 6:
        return f"{number(mean)} ± {number(half_width, 2)}"
    shown = max(decimals, 0)
    return f"{round(mean, decimals):.{shown}f} ± {round(half_width, decimals):.{shown}f}"


def p_value(p: float) -> str:
    """Return `p=0.013`, or `p<0.001`."""
    return "p<0.001" if p < 0.001 else f"p={p:.2g}"


def duration(seconds: float | None) -> str:
    """Return a length of time with two units: `3h 12m`, `45s`, `0.8s`; `-` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    units = list(zip("dhms", _split(round(seconds)), strict=True))
    first = next(index for index, (_, amount) in enumerate(units) if amount)
    return " ".join(f"{amount}{name}" for name, amount in units[first : first + 2] if amount)


def hours(value: float | None) -> str:
    """Return hours with two digits after the point where they are few: `0.04 h`, `128 h`."""
    return "-" if value is None else f"{number(value, 3 if abs(value) < 100 else 4)} h"


def size(amount: float) -> str:
    """Return an amount of bytes: `512 B`, `1.3 GiB`, `73 GiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{number(amount, 2) if amount < 10 else round(amount)} {units[0]}"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each dotted name the shortest end of it that no other one has: `objective.time.mean` -> `mean`."""
    every = list(dict.fromkeys(names))
    short = {}
    for name in every:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        short[name] = next(end for end in ends if end == name or not _clashes(end, name, every))
    return short


def join(words: Sequence[str], last: str = "and") -> str:
    """Return `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def count(n: int, thing: str) -> str:
    """Return `1 trial`, `3 trials`."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _clashes(end: str, name: str, names: Sequence[str]) -> bool:
    return any(other != name and (other == end or other.endswith(f".{end}")) for other in names)


def _split(seconds: int) -> tuple[int, int, int, int]:
    minutes, s = divmod(seconds, 60)
    hours_, m = divmod(minutes, 60)
    days, h = divmod(hours_, 24)
    return days, h, m, s
