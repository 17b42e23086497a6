"""`when`, `forbid` and `zip` of the sweep file: what relates parameters to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from meanflow_core.config import parse_value
from meanflow_core.errors import ConfigError, nearest
from orchestrator.space import Condition, Parameter, Predicate, Space, parse_condition
from orchestrator.spec.read_parameters import SpaceDraft
from orchestrator.spec.reader import Path, Reader


def read_space(
    reader: Reader, draft: SpaceDraft, content: Mapping[str, Any], fixed: Mapping[str, Any], open_keys: bool
) -> Space:
    """Put parameters, `when`, `zip` and `forbid` together.

    Args:
        reader: takes the problems.
        draft: the parameters.
        content: the whole sweep file.
        fixed: value of every key that is not swept; conditions may name them.
        open_keys: any other key may exist too (a trainer of the user's own), so none is known to be wrong.
    """
    conditions = _Conditions(reader, draft, fixed, open_keys)
    for key, when in draft.whens.items():
        before = len(reader.problems)
        predicate = conditions.read((*draft.paths[key], "when"), when, owner=key)
        if len(reader.problems) > before:
            draft.parameters.pop(key, None)  # without its condition it would stand where it should not
        elif key in draft.parameters:
            draft.parameters[key] = replace(draft.parameters[key], when=predicate)
    forbid = []
    for path, entry in _entries(reader, ("forbid",), content.get("forbid")):
        predicate = conditions.read(path, entry, owner=None)
        if predicate and not any(key in draft.paths for condition in predicate for key in condition.keys):
            reader.wrong(path, "refers to no parameter of this sweep, so it forbids everything or nothing")
        elif predicate:
            forbid.append(predicate)
    parameters = _ordered(reader, draft, _zipped(reader, draft, content.get("zip")))
    constants = {p.name: p.choices[0] for p in parameters if p.kind == "constant" and not p.when}
    mentioned = {key for predicate in (*forbid, *(p.when for p in parameters)) for c in predicate for key in c.keys}
    looked_at = {key: fixed[key] for key in sorted(mentioned) if key in fixed and key not in draft.paths}
    return Space(
        parameters=tuple(p for p in parameters if p.name not in constants),
        fixed=looked_at | {key: value for key, value in constants.items()},
        forbid=tuple(forbid),
    )


def _entries(reader: Reader, path: Path, content: Any) -> list[tuple[Path, Any]]:
    """The items of a list with their paths; one mapping counts as a list of one."""
    if content is None:
        return []
    if isinstance(content, Mapping):
        return [(path, content)]
    return [((*path, str(index)), entry) for index, entry in enumerate(reader.sequence(path, content))]


@dataclass
class _Conditions:
    """Reads predicates and checks that they can ever hold."""

    reader: Reader
    draft: SpaceDraft
    fixed: Mapping[str, Any]
    open_keys: bool

    def read(self, path: Path, content: Any, owner: str | None) -> Predicate:
        if not isinstance(content, Mapping) or not content:
            self.reader.wrong(path, "must map keys to values, e.g. {objective.time.law: lognorm}", content)
            return ()
        found: list[Condition] = []
        for key, demand in content.items():
            try:
                conditions = parse_condition(key, demand, parse_value)
            except (ValueError, ConfigError) as error:
                rule = str(error) if not isinstance(error, ConfigError) else error.problems[0].rule
                self.reader.wrong((*path, key), rule, demand)
                continue
            found += [c for c in conditions if self._sound((*path, key), c, demand, owner)]
        return tuple(found)

    def _sound(self, path: Path, condition: Condition, demand: Any, owner: str | None) -> bool:
        known = [*self.draft.paths, *self.fixed]
        for key in condition.keys:
            if key == owner:
                self.reader.wrong(path, "a parameter cannot depend on itself")
                return False
            if key not in known and not (self.open_keys and key == condition.other):
                close = nearest(key, list(self.draft.paths)) or nearest(key, known)
                self.reader.wrong(
                    path, f"{key} is neither a parameter of this sweep nor a key of its base", close=close
                )
                return False
        parameter = self.draft.parameters.get(condition.key)
        values = parameter.choices if parameter else ()
        if condition.relation in ("in", "!=") and condition.other is None and parameter:
            for operand in condition.operands:
                if not parameter.contains(operand):
                    close = nearest(str(operand), [str(value) for value in values])
                    self.reader.wrong(path, f"{condition.key} never has this value: {parameter}", operand, close=close)
                    return False
        elif owner and not any(key in self.draft.paths for key in condition.keys) and not condition.holds(self.fixed):
            self.reader.note(
                path, f"{condition.key} is {self.fixed.get(condition.key)!r} here, so {owner} stays unused"
            )
        return True


def _zipped(reader: Reader, draft: SpaceDraft, content: Any) -> dict[str, Parameter]:
    """Return the parameters by name, those of each `zip` joined into one at the place of the first."""
    joined = dict(draft.parameters)
    groups = content if not content or (isinstance(content, list) and isinstance(content[0], list)) else [content]
    taken: set[str] = set()
    for path, group in _entries(reader, ("zip",), groups):
        names = [str(name) for name in reader.sequence(path, group)]
        sound = len(names) > 1
        if not sound and isinstance(group, list):
            reader.wrong(path, "needs at least two keys that move together", group)
        for name in names:
            if name not in draft.paths:
                reader.wrong(path, "no parameter of this sweep", name, close=nearest(name, list(draft.paths)))
                sound = False
            elif name in taken or names.count(name) > 1:
                reader.wrong(path, "is zipped twice", name)
                sound = False
            elif name not in draft.parameters:
                sound = False  # its own problem is noted already
        taken.update(names)
        if sound and _alike(reader, path, [draft.parameters[name] for name in names]):
            members = [joined.pop(name) for name in names]
            rows = tuple(zip(*(member.choices for member in members), strict=True))
            name = "+".join(names)
            joined[name] = replace(members[0], name=name, choices=rows, members=tuple(names))
    order = list(draft.parameters)
    return dict(sorted(joined.items(), key=lambda item: order.index(item[1].keys[0])))


def _alike(reader: Reader, path: Path, members: list[Parameter]) -> bool:
    first = members[0]
    for member in members:
        if member.prior is not None:
            reader.wrong(path, f"{member.name} has a `prior`, which is of one key alone; leave it out", str(member))
        elif member.kind != "categorical" or member.probabilities:
            reader.wrong(path, f"{member.name} has no plain list of `values` to be zipped", str(member))
        elif first.kind == "categorical" and member.size != first.size:
            lengths = f"{member.name} has {member.size} values but {first.name} has {first.size}"
            reader.wrong(path, f"{lengths}; zipped lists must have the same length")
        elif member.when != first.when:
            reader.wrong(path, f"{member.name} and {first.name} must have the same `when` to be zipped")
        else:
            continue
        return False
    return True


def _ordered(reader: Reader, draft: SpaceDraft, parameters: dict[str, Parameter]) -> list[Parameter]:
    """Sort so that a parameter stands after those its `when` names, otherwise as in the file."""
    waiting, placed = list(parameters.values()), set[str]()
    done: list[Parameter] = []
    while waiting:
        for parameter in waiting:
            needs = {key for condition in parameter.when for key in condition.keys if key in draft.parameters}
            if needs <= placed:
                break
        else:
            circle = ", ".join(parameter.name for parameter in waiting)
            reader.wrong(draft.paths[waiting[0].keys[0]], f"these `when` depend on each other in a circle: {circle}")
            return [*done, *(replace(parameter, when=()) for parameter in waiting)]
        waiting.remove(parameter)
        done.append(parameter)
        placed.update(parameter.keys)
    return done
