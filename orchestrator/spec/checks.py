"""Checks of a sweep against the training configuration: its keys, its bounds, its metric."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from meanflow_core.config import RECORDS, bare_name, is_named, load_config, valid_keys
from meanflow_core.data import features_missing, no_features, usual_metrics
from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.search import METHODS
from orchestrator.space import Parameter, same
from orchestrator.spec.lengths import length_problems
from orchestrator.spec.program import check_program
from orchestrator.spec.read_parameters import SpaceDraft
from orchestrator.spec.reader import Path, Reader
from orchestrator.spec.sweep_file import KEY_ALIASES

if TYPE_CHECKING:
    from orchestrator.spec.sweep import SweepSpec

BUILDS = 100
"""Most configurations that are built for checking: about 2 ms each."""


def check_keys(reader: Reader, draft: SpaceDraft, settings: dict[str, Any], base: Mapping[str, Any]) -> None:
    """Note every parameter and every key of `set` that no training configuration has, and take it out.

    A class of the user's own, as `model.name` or `data.name`, may have any argument; `planning.preflight` asks it.
    """
    own = tuple(f"{section}." for section in ("model", "data") if _may_be_own(section, draft, settings, base))
    valid = [key for key in valid_keys() if key not in RECORDS]
    places: list[tuple[Path, str]] = [(path, key) for key, path in draft.paths.items()]
    places += [(("set", key), key) for key in settings]
    for path, key in places:
        if key in valid or (own and key.startswith(own) and _sound(key, path, draft)):
            continue
        settings.pop(key, None)
        sound = draft.parameters.pop(key, None) is not None or path[0] == "set"
        below = [name for name in valid if name.startswith(f"{key}.")]
        if below and not sound:
            continue  # noted already: a mapping that is no parameter
        if below:
            reader.wrong(path, f"is a group of keys; vary one of {', '.join(below[:6])}{', ...' if below[6:] else ''}")
        else:
            close = KEY_ALIASES.get(key.rpartition(".")[2]) or nearest(key, valid)
            reader.wrong(path, "unknown key of the training configuration", close=close)
    for key, parameter in draft.parameters.items():
        if parameter.distribution == "int_uniform" and valid_keys().get(key) in (float, float | None):
            rule = (
                f"takes whole numbers only, by W&B's rule for whole `min` and `max`; write {parameter.low:.1f} for all"
            )
            reader.note(draft.paths[key], rule)


def _may_be_own(section: str, draft: SpaceDraft, settings: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    key = f"{section}.name"
    varied = draft.parameters.get(key)
    names = list(varied.choices) if varied is not None else [settings.get(key, base.get(section, {}).get("name"))]
    return any(is_named(name) for name in names)


def _sound(key: str, path: Path, draft: SpaceDraft) -> bool:
    return path[0] == "set" or key in draft.parameters


# -------------------------------------------------------------------------------------------------- metric

_EVAL = re.compile(
    r"eval/(?:raw/|ema_[0-9.]+/)?(?P<best>best_)?(?P<name>[A-Za-z0-9_]+)_(?P<nfe>[0-9]+)nfe(?:_w(?P<scale>[0-9.]+))?"
)


def check_metrics(reader: Reader, spec: SweepSpec) -> None:
    """Note a metric that the trials will not log (of the MeanFlow trainer; another may log what it likes)."""
    unnamed = any(p.key.startswith("metric") and p.key.endswith("name") for p in reader.problems)
    if not spec.builtin_trainer or unnamed:
        return
    evaluation = spec.base["evaluation"]
    nfe = spec.set.get("evaluation.nfe", evaluation["nfe"])
    names = spec.set.get("evaluation.metrics", evaluation["metrics"])
    data = spec.set.get("data.name", spec.base["data"]["name"])
    if {"evaluation.nfe", "evaluation.metrics", "data.name"} & set(spec.space.names):
        return
    if not (isinstance(nfe, list) and isinstance(names, list | None) and isinstance(data, str)):
        return  # `check_configs` will say so
    source = f"evaluation.metrics is {names}"
    vae, features = (_fixed(spec, key) for key in ("data.vae", "evaluation.features"))
    given = names
    if names is None:
        names = list(usual_metrics(data, vae, features))
        source = f"those of {data} are {', '.join(names)} (others can be named in `evaluation.metrics`)"
    elif all(isinstance(name, str) for name in names):
        names = [bare_name(name) for name in names]
    if not {"evaluation.features", "data.vae"} & set(spec.space.names):
        for problem in no_features(data) if features is None and features_missing(data, vae, given) else ():
            place = "set" if problem.key in spec.set or "data.name" in spec.set else "base"
            reader.wrong((place, problem.key), problem.rule, problem.value)
    for index, metric in enumerate(spec.metrics):
        path: Path = ("metric", "name") if len(spec.metrics) == 1 else ("metrics", str(index), "name")
        found = _EVAL.fullmatch(metric.name)
        if metric.name.startswith("train/"):
            rule = (
                "does not measure quality: with the adaptive weight the training loss is about the same whatever "
                "happens, and it changes its scale with the swept keys; use a metric of samples, e.g. eval/fid_1nfe"
            )
            reader.wrong(path, rule, metric.name)
        elif not found:
            logged = [f"eval/{name}_{n}nfe" for name in names or ["fid", "accuracy", "wasserstein"] for n in nfe]
            rule = "is not logged by trials; they log eval/<metric>_<n>nfe"
            reader.wrong(path, rule, metric.name, close=nearest(metric.name, logged))
        elif int(found["nfe"]) not in nfe:
            reader.wrong(path, f"is not logged by trials: evaluation.nfe is {nfe}", metric.name)
        elif names is not None and found["name"] not in names:
            rule = f"is not logged by trials: {source}"
            reader.wrong(path, rule, metric.name, close=nearest(found["name"], names))
        else:
            _check_scale(reader, spec, path, metric.name, found)


def _fixed(spec: SweepSpec, key: str) -> Any:
    """The value that all trials have, of a key that is not varied."""
    section, _, name = key.partition(".")
    return spec.set.get(key, spec.base[section].get(name))


def _check_scale(reader: Reader, spec: SweepSpec, path: Path, name: str, found: re.Match[str]) -> None:
    """Note a scale of guidance that trials are not judged at, or the lack of one where guidance is an input."""
    if {"evaluation.guidance", "objective.guidance.input"} & set(spec.space.names):
        return
    scales = spec.set.get("evaluation.guidance", spec.base["evaluation"]["guidance"])
    folder, _, leaf = name.removesuffix(f"_w{found['scale']}").rpartition("/")
    bare = leaf.removeprefix("best_")
    leaves = [*(f"{bare}_w{scale:g}" for scale in scales), f"best_{bare}"] if scales else [bare]
    logged = [f"{folder}/{leaf}" for leaf in leaves]
    if name not in logged:
        why = "evaluation.guidance" if scales else "without `objective.guidance.input`"
        reader.wrong(path, f"is not logged by trials; they log {', '.join(logged)} ({why})", name)


# --------------------------------------------------------------------------------------- settings together


def check_together(reader: Reader, spec: SweepSpec) -> None:
    """Note settings that do not go together."""
    limits_wrong = any(problem.key.partition(".")[0] in ("run_cap", "budget") for problem in reader.problems)
    for problem in () if _unreadable(reader, "method") else spec.method.problems(spec):
        section, _, key = problem.key.partition(".")
        if section == "run_cap" and limits_wrong:
            continue  # it is there, and wrong
        path = reader.place(key) if section == "parameters" and key else (section,)
        reader.wrong(path, problem.rule, problem.value, close=problem.nearest)
    for parameter in () if spec.method.believes else spec.space.believes:
        reader.note((*reader.place(parameter.name), "prior"), f"is not used: {spec.method.name} has no use for one")
    for text in spec.method.notes(spec):
        reader.note(("method",), text)
    if spec.builtin_trainer and spec.resources.gpu > 1 and spec.resources.gpu.is_integer():  # others are wrong already
        gpus = int(spec.resources.gpu * spec.resources.workers)
        rule = f"is more than a process of the MeanFlow trainer uses; `gpu: 1, workers: {gpus}` trains on {gpus}"
        reader.wrong(("resources", "gpu"), rule, spec.resources.gpu)
    if len(spec.metrics) > 1:
        if not spec.method.several_metrics:
            able = ", ".join(name for name, method in METHODS.items() if method.several_metrics)
            reader.wrong(("method",), f"searches by one metric; by several: {able}", spec.method.name)
        if not spec.early_terminate.several_metrics:
            rule = "ranks by one metric and would stop trials that are best in another; leave it out with `metrics`"
            reader.wrong(("early_terminate",), rule)
    if spec.program is not None:
        check_program(reader, spec.program, spec)
    group = spec.early_terminate.group_key
    if group is not None and group not in spec.space.names and not _unreadable(reader, "parameters"):
        rule = f"is not a parameter of this sweep: they are {', '.join(spec.space.names)}"
        reader.wrong(("early_terminate", "by"), rule, group, close=nearest(group, spec.space.names))


def _unreadable(reader: Reader, key: str) -> bool:
    return any(problem.key == key for problem in reader.problems)


# ------------------------------------------------------------------------------------------ configurations


def check_configs(reader: Reader, spec: SweepSpec) -> None:
    """Build configurations at the corners of the space, and note every rule that one of them breaks.

    Each value of a list and both ends of a range are tried alone. If nothing at all is wrong so far, combinations of
    them follow: a small grid is built whole. What is wrong with `set` alone is noted once, and taken out for the rest.
    """
    seen: set[tuple[str, str]] = set()
    # Where the kind of network is varied, no trial has the base's: its rules do not count.
    kinds = {p.name: p.choices[0] for p in spec.space.parameters if p.name.endswith(".name") and p.choices}
    broken = _try(reader, spec, kinds, None, seen)
    if broken:
        spec = replace(spec, set={key: value for key, value in spec.set.items() if key not in broken})
        if _try(reader, spec, kinds, None, seen):
            return  # one rule about several keys; every corner would break it again
    wrong: list[tuple[str, Any]] = []  # values that are wrong by themselves
    for _ in range(2):  # again without them, for what they have hidden
        known = len(wrong)
        for parameter, values in islice(_single_corners(spec, tuple(wrong)), BUILDS):
            found = _try(reader, spec, values, parameter, seen)
            wrong += [(key, values[key]) for key in found & set(parameter.keys)]
        if len(wrong) == known:
            break
    if not reader.problems and spec.space.forbid:
        try:
            spec.space.draw(random.Random(0).random)
        except ConfigError as error:
            reader.wrong(("forbid",), error.problems[0].rule)
    if not reader.problems:
        for values in islice(_combined_corners(spec), BUILDS):
            _try(reader, spec, values, None, seen)
    if not spec.builtin_trainer and spec.program is None:
        _check_length(reader, spec)


def _try(
    reader: Reader, spec: SweepSpec, values: Mapping[str, Any], parameter: Parameter | None, seen: set[tuple[str, str]]
) -> set[str]:
    """Build one configuration; note each new problem where it comes from. Return the keys that are wrong."""
    try:
        config = spec.config_for(values)
        problems = [] if spec.program is not None else list(length_problems(config))
    except ConfigError as error:
        problems = error.problems
    if problems:
        for problem in problems:
            _note(reader, spec, problem, values, parameter, seen)
        return {problem.key for problem in problems}
    if not spec.builtin_trainer:
        return set()
    remarks = list(load_config(config).remarks())
    for remark in remarks:
        involved = {remark.key, "trainer.batch_size"}
        if involved & set(values):  # some trials of the sweep would be something else than the others
            _note(reader, spec, remark, values, parameter, seen)
        elif not involved & set(spec.space.names) and ("note", remark.key) not in seen:
            seen.add(("note", remark.key))
            place = ("set", remark.key) if remark.key in spec.set else ("base", remark.key)
            reader.note(place, f"{remark.rule} (got {remark.value!r})")
    return {remark.key for remark in remarks} & set(values)


def _note(
    reader: Reader,
    spec: SweepSpec,
    problem: Problem,
    values: Mapping[str, Any],
    parameter: Parameter | None,
    seen: set[tuple[str, str]],
) -> None:
    key = problem.key
    own = parameter is not None and key in parameter.keys
    listed = parameter is None or bool(parameter.choices)  # each value of a list is said, a range is said once
    mark = (key, f"{problem.rule} {problem.value!r}" if (own or parameter is None) and listed else problem.rule)
    if mark in seen or (key, problem.rule) in seen:
        return
    seen.add(mark)
    rule = problem.rule
    if key in valid_keys() and "no such key" in rule:
        section = key.partition(".")[0]
        rule += f"; if this key belongs to one kind of {section}, give it `when: {{{section}.name: ...}}`"
    if parameter is None and key not in spec.space.names:
        reader.wrong(("set", key) if key in spec.set else ("base", key), rule, problem.value, close=problem.nearest)
        return
    if not own and parameter is not None and reader.problems:
        return  # a rule between keys, which another mistake may have broken
    if not own:  # a rule between keys: say which combination breaks it
        involved = {k: v for k, v in values.items() if k.rpartition(".")[0] == key.rpartition(".")[0]} or dict(values)
        shown = ", ".join(f"{k} = {v!r}" for k, v in involved.items())
        if parameter is not None and not set(involved).intersection(parameter.keys):
            shown = ", ".join(f"{k} = {values[k]!r}" for k in parameter.keys)
        rule += f" (with {shown}); a `forbid`, `when` or `zip` can exclude it"
    name = key if own or parameter is None or key in spec.space.names else parameter.keys[0]
    if name != key:
        rule = f"`{key}`: {rule}"
    value = problem.value if own or name == key else values.get(name)
    reader.wrong(reader.place(name), rule, value, close=problem.nearest)


def _single_corners(spec: SweepSpec, wrong: Collection[tuple[str, Any]]) -> Iterator[tuple[Parameter, dict[str, Any]]]:
    """Yield each parameter's ends, the others having some allowed value that is not known to be wrong."""
    space, chance = spec.space, random.Random(0)
    drawn = [space.suggest(lambda parameter: parameter.from_unit(0.5))]
    drawn += [space.suggest(lambda parameter: parameter.from_unit(chance.random())) for _ in range(BUILDS)]
    for parameter in space.parameters:
        others = [(key, value) for key, value in wrong if key not in parameter.keys]
        home = next(
            (
                values
                for values in drawn
                if set(parameter.keys) <= set(values)
                and space.allowed(values)
                and not any(key in values and same(values[key], value) for key, value in others)
            ),
            None,
        )
        if home is None:
            continue
        for end in _ends(parameter):
            values = space.suggest(_choose(parameter, end, home))
            if space.allowed(values):
                yield parameter, values


def _combined_corners(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    """Yield combinations of ends, each once: the whole grid if it is small, else drawn at random."""
    space, chance = spec.space, random.Random(0)
    if not space.continuous() and space.grid_size() <= BUILDS:
        yield from space.grid()
        return
    ends = {parameter.name: _ends(parameter) for parameter in space.parameters}
    drawn = [space.suggest(lambda parameter: chance.choice(ends[parameter.name])) for _ in range(BUILDS)]
    yield from filter(space.allowed, {repr(values): values for values in drawn}.values())


def _ends(parameter: Parameter) -> list[Any]:
    """Every choice of a short list; the ends of a range and a value between them."""
    if parameter.choices:
        return list(parameter.choices[:40])
    return [parameter.from_unit(u) for u in (0.0, 0.381966, 1.0)]


def _choose(parameter: Parameter, value: Any, home: Mapping[str, Any]) -> Callable[[Parameter], Any]:
    """Choose `value` for this parameter, and for the others what `home` has."""

    def chooser(other: Parameter) -> Any:
        if other is parameter:
            return value
        if not set(other.keys) <= set(home):
            return other.from_unit(0.5)
        return tuple(home[key] for key in other.members) if other.members else home[other.name]

    return chooser


def _check_length(reader: Reader, spec: SweepSpec) -> None:
    """A trainer of the user's own needs to say how long it trains."""
    config = spec.config_for(spec.space.suggest(lambda parameter: parameter.from_unit(0.5)))
    loop = config.get("trainer")
    if not isinstance(loop, Mapping) or "steps" not in loop:
        rule = "`trainer.steps` is missing: how many steps does a trial train? (in `set` or in `base`)"
        reader.wrong(("set",), rule)
