"""The limits of a number in the sweep file, written at the field that holds it: one source for reader and schema."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`low <= value <= high` and `value > above`, as the second argument of `Annotated`. None: no such limit."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
