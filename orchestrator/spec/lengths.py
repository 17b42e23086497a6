"""How long a configuration trains and how often it reports, whatever trainer it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meanflow_core.errors import Problem

MOST_REPORTS = 100_000
"""Of one trial: each is a line of the ledger, and a point of every curve."""
WHOLE = ("steps", "eval_every", "batch_size")


def length_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with these keys of a configuration's `trainer` section, where they are there."""
    loop = config.get("trainer")
    if not isinstance(loop, Mapping):
        return
    sound = True
    for name in WHOLE:
        value = loop.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            sound = False
            rule = "must be a whole number, at least 1 (written 1000, not 1e3)"
            yield Problem(key=f"trainer.{name}", value=value, rule=rule)
    if sound and "eval_every" in loop and loop.get("steps", 1) // loop["eval_every"] > MOST_REPORTS:
        rule = f"makes {loop['steps'] // loop['eval_every']:,} reports a trial; {MOST_REPORTS:,} are the most"
        yield Problem(key="trainer.eval_every", value=loop["eval_every"], rule=rule)
