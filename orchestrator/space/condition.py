"""Conditions on configuration values: what `when` and `forbid` are made of. Data only; nothing is evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_COMPARISON = re.compile(r"\s*(<=|>=|!=|==|<|>)\s*(.+?)\s*")
_ABSENT: Any = object()


def same(left: Any, right: Any) -> bool:
    """Whether two configuration values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(same(x, y) for x, y in zip(left, right, strict=True))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One demand on one key.

    Args:
        key: the dotted key whose value is looked at.
        relation: `in`, or a comparison sign.
        operands: the values to compare with; several only with `in` and `!=` (none of them).
        other: a key whose value is the operand, in place of `operands`.
    """

    key: str
    relation: str
    operands: tuple[Any, ...] = ()
    other: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys whose values decide."""
        return (self.key,) if self.other is None else (self.key, self.other)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the demand is met. A key that has no value meets none."""
        value = values.get(self.key, _ABSENT)
        operands = self.operands if self.other is None else (values.get(self.other, _ABSENT),)
        if value is _ABSENT or any(operand is _ABSENT for operand in operands):
            return False
        if self.relation in ("in", "=="):
            return any(same(value, operand) for operand in operands)
        if self.relation == "!=":
            return not any(same(value, operand) for operand in operands)
        operand = operands[0]
        return _number(value) and _number(operand) and COMPARISONS[self.relation](value, operand)

    def __str__(self) -> str:
        right = self.other or " or ".join(str(operand) for operand in self.operands)
        return f"{self.key} {'=' if self.relation in ('in', '==') else self.relation} {right}"


Predicate = tuple[Condition, ...]
"""Conditions that must all hold."""


def holds(predicate: Predicate, values: Mapping[str, Any]) -> bool:
    """Whether every condition holds (so the empty predicate does)."""
    return all(condition.holds(values) for condition in predicate)


def parse_condition(key: str, demand: Any, parse: Callable[[str], Any]) -> Predicate:
    """Read what a file demands of a key.

    Args:
        key: the dotted key.
        demand: a value (equality), a list (any of them), a comparison as text (`"> 0.5"`, `"!= uniform"`,
            `"<= other.key"`), `{min: , max: }` (both inclusive), or `{not: value or list}`.
        parse: reads a value from text, as YAML does.

    Raises:
        ValueError: with the rule that is broken.
    """
    if isinstance(demand, Mapping):
        return _bounds(key, demand)
    if isinstance(demand, list):
        if not demand:
            raise ValueError("an empty list matches nothing")
        return (Condition(key=key, relation="in", operands=tuple(demand)),)
    found = _COMPARISON.fullmatch(demand) if isinstance(demand, str) else None
    if not found:
        return (Condition(key=key, relation="in", operands=(demand,)),)
    sign, operand = found[1], parse(found[2])
    if _number(operand) or (sign in ("==", "!=") and not _is_key(operand)):
        return (Condition(key=key, relation="in" if sign == "==" else sign, operands=(operand,)),)
    if _is_key(operand):
        return (Condition(key=key, relation=sign, other=operand),)
    raise ValueError(f"`{sign}` compares with a number or with another key")


def _bounds(key: str, demand: Mapping[Any, Any]) -> Predicate:
    if set(demand) == {"not"}:
        wrong = demand["not"]
        return (Condition(key=key, relation="!=", operands=tuple(wrong) if isinstance(wrong, list) else (wrong,)),)
    if not demand or set(demand) - {"min", "max"}:
        raise ValueError("a condition is a value, a list, a comparison like '> 0.5', {min: , max: } or {not: }")
    if not all(_number(bound) for bound in demand.values()):
        raise ValueError("`min` and `max` of a condition must be numbers")
    signs = {"min": ">=", "max": "<="}
    return tuple(Condition(key=key, relation=signs[end], operands=(bound,)) for end, bound in demand.items())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and "." in value
