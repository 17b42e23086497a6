"""Changing a sweep that has begun: what differs, what may, and which trials stay valid."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from meanflow_core.errors import ConfigError, Problem
from orchestrator.engine.identity import identity
from orchestrator.spec import completed, flat, put
from orchestrator.trials import TrialRecord

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger
    from orchestrator.spec import SweepSpec

_FALSIFY = {
    "metric": "trials were stopped and ranked by the old one",
    "metrics": "trials were stopped and ranked by the old ones",
    "trainer": "trials were trained by the old one",
    "seed": "trials have been drawn with the old one",
    "name": "it is the sweep's folder",
    "warm_start": "the search has learned from it when the sweep began",
}
"""Keys of the sweep file that cannot change once a trial has begun, and why."""
_SPACE = ("parameters", "zip", "forbid", "method")


class Revised(NamedTuple):
    """A sweep as a command would leave it."""

    spec: SweepSpec
    changes: list[str]
    """What differs in the sweep file, one line each."""
    notes: list[str]
    """What should be known about it."""

    @property
    def said(self) -> str:
        """All of it in a line."""
        return "; ".join([*self.changes, *self.notes])


def revised(ledger: Ledger, command: Mapping[str, Any]) -> Revised:
    """Return the sweep as an `extend` or `edit` command would leave it.

    A file that says what the last one said does not take back what `extend` has added since.

    Raises:
        ConfigError: the change would falsify what is recorded, or makes no sense.
    """
    from orchestrator.spec import SweepSpec

    old = ledger.spec()
    if command["command"] == "extend":
        source, notes = _extended(old, int(command["trials"])), list[str]()
    elif command["command"] == "try":
        source, notes = _asked(old, command["values"]), list[str]()
    else:
        source, notes = _with_extensions(old, command["source"])
    try:
        new = SweepSpec.from_source(source)
    except ConfigError as error:
        raise (_as_typed(error, command["values"]) if command["command"] == "try" else error) from None
    trials = ledger.trials()
    problems = list(_refusals(old, new, trials, ledger))
    if command["command"] == "try":
        problems += _untriable(new, trials)
    if problems:
        raise ConfigError(problems)
    changes = [*differences(old, new)]
    taken = [key for key in old.extended if key not in new.extended and _flat(old)[key] == _flat(new).get(key)]
    changes += [f"{key}: {_flat(new)[key]} is the file's own number now" for key in taken]
    outside = [trial.id for trial in trials if new.space.problems(trial.values)] if changes else []
    if outside:
        notes.append(f"outside the new search space, ranked but not used by the search: trials {', '.join(outside)}")
    if old.resources != new.resources:
        notes.append("resources count from the next driver on: `meansweep stop` and `resume` where one runs now")
    return Revised(new, changes, notes)


def differences(old: SweepSpec, new: SweepSpec) -> Iterator[str]:
    """Yield one line for each key of the sweep file that differs: `run_cap: 24 -> 48`."""
    before, after = _flat(old), _flat(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            was, now = (str(side[key]) if key in side else "-" for side in (before, after))
            yield f"{key}: {was} -> {now}"


def moves_space(changes: Sequence[str]) -> bool:
    """Whether one of these changes alters what is drawn, so that positions of earlier draws mean nothing any more."""
    return any(line.partition(":")[0].partition(".")[0] in _SPACE for line in changes)


def _extended(old: SweepSpec, more: int) -> dict[str, Any]:
    content = dict(old.source["sweep"])
    if more < 1:
        raise ConfigError([Problem(key="extend", rule="must add at least one trial", value=more)])
    if old.run_cap is None:
        rule = (
            f"the sweep has no run_cap to add to; its {old.method.name if old.method.exhaustive else 'budget'} ends it"
        )
        raise ConfigError([Problem(key="extend", rule=rule + " (`meansweep edit` changes that)")])
    content["run_cap"] = old.run_cap + more
    extended = {"run_cap": more}
    if old.budget.trials is not None:
        content["budget"] = {**content["budget"], "trials": old.budget.trials + more}
        extended["budget.trials"] = more
    extended = {key: old.extended.get(key, 0) + added for key, added in extended.items()}
    return {**old.source, "sweep": content, "extended": extended}


def _asked(old: SweepSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source with one configuration more to be tried, beside those that the search may draw."""
    source = old.source if old.run_cap is None else _extended(old, 1)
    content = dict(source["sweep"])
    before = content.get("try_first") or []
    content["try_first"] = [*([before] if isinstance(before, Mapping) else before), dict(values)]
    return {**source, "sweep": content}


def _with_extensions(old: SweepSpec, source: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a new file's source with what `extend` has added to the last file's numbers, where it repeats them."""
    content, now, kept, notes = copy.deepcopy(source["sweep"]), _flat(old), dict[str, int](), list[str]()
    said = flat(content)
    for key, added in old.extended.items():
        if said.get(key) == now[key] - added:
            put(content, key, now[key])
            kept[key] = added
            notes.append(f"{key} stays {now[key]}: the file's {said[key]}, as before, and {added} by `extend`")
    return {**source, "sweep": content, "extended": kept}, notes


def _refusals(old: SweepSpec, new: SweepSpec, trials: Sequence[TrialRecord], ledger: Ledger) -> Iterator[Problem]:
    if new.warm_start != old.warm_start:
        was, now = list(old.warm_start), list(new.warm_start)
        yield Problem(key="warm_start", rule=f"cannot change from {was!r}: {_FALSIFY['warm_start']}", value=now)
    if new.name != old.name:
        yield Problem(key="name", rule=f"cannot change from {old.name!r}: {_FALSIFY['name']}", value=new.name)
    if not trials:
        return
    pairs: dict[str, tuple[Any, Any]] = {
        "metrics": (_goals(old), _goals(new)),
        "trainer": (old.trainer, new.trainer),
        "seed": (old.seed, new.seed),
    }
    for key, (was, now) in pairs.items():
        if was != now:
            yield Problem(key=key, rule=f"cannot change from {was!r}: {_FALSIFY[key]}", value=now)
    if old.method is not new.method and (old.method.population or new.method.population):
        rule = f"cannot change from {old.method.name!r}: a population is trained together from its first step on"
        yield Problem(key="method", rule=rule, value=new.method.name)
    if old.trainer == new.trainer:
        yield from _other_configs(new, ledger)


def _untriable(new: SweepSpec, trials: Sequence[TrialRecord]) -> Iterator[Problem]:
    """What keeps the last configuration that was asked for from being tried."""
    index = len(new.try_first) - 1
    values = completed(new.space, new.try_first[index], index)
    try:
        found = new.config_hash(new.config_for(values, seed=values.get("seed", new.seed)))
    except ConfigError as error:
        asked = _typed(new.try_first[index])
        yield from (replace(each, key=asked, rule=f"`{each.key}`: {each.rule}") for each in error.problems)
        return
    same = next((trial.id for trial in trials if trial.config_hash == found and not trial.replicate), None)
    if same is not None:
        rule = f"is what trial {same} has; `meansweep trial retry {same} --afresh` and `replicates` run it again"
        yield Problem(key=_typed(values), rule=rule)
    elif any(completed(new.space, given, at) == values for at, given in enumerate(new.try_first[:index])):
        yield Problem(key=_typed(values), rule="has been asked for already, and waits for its turn")


def _typed(values: Mapping[str, Any]) -> str:
    """Return the words of `meansweep try` that ask for these values."""
    return " ".join(["try", *(f"{key}={value}" for key, value in values.items())])


def _as_typed(error: ConfigError, values: Mapping[str, Any]) -> ConfigError:
    """Return what is wrong with a configuration that was asked for at the words that ask for it.

    It is checked as the last entry of `try_first`, which nobody has written.
    """
    found = []
    for problem in error.problems:
        head, _, below = problem.key.partition(".")
        key = below.partition(".")[2]
        if head != "try_first" or not below:
            found.append(problem)
            continue
        said = {key: values[key]} if key in values else values
        got = {} if key or isinstance(problem.value, Mapping) else {"value": problem.value}
        found.append(Problem(key=_typed(said), rule=problem.rule, nearest=problem.nearest, **got))
    return ConfigError(found)


def _goals(spec: SweepSpec) -> str:
    return ", ".join(metric.words for metric in spec.metrics)


def _other_configs(new: SweepSpec, ledger: Ledger) -> Iterator[Problem]:
    """The values that a trial started with must still mean the same training: base and `set`, the same length."""
    changed = []
    for history in ledger.histories():
        born = history.birth
        try:
            same = new.config_hash(new.config_for(born.values, seed=born.seed)) == identity(ledger, history)
        except ConfigError:
            same = False
        if not same:
            changed.append(history.id)
    if changed:
        rule = (
            "the training configuration differs in more than the swept keys, so the old trials would not be "
            f"comparable with new ones (trials {', '.join(changed[:10])}{', ...' if len(changed) > 10 else ''}); "
            "start a new sweep, with `warm_start` if the results may guide it"
        )
        yield Problem(key="base/set", rule=rule)


def _flat(spec: SweepSpec) -> dict[str, Any]:
    content = {key: value for key, value in spec.source["sweep"].items() if value is not None}
    if spec.program is not None and spec.program.root:  # one folder, however it is written
        content["trainer"] = {**(content.get("trainer") or {}), "folder": spec.program.root}
    return {str(key): value for key, value in flat(content).items()}
