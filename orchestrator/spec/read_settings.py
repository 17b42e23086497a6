"""Metric, early stopping, replicates, resources and budget of a sweep file, and W&B's keys that mean nothing here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, cast, get_args, get_origin, get_type_hints

from meanflow_core.errors import nearest
from orchestrator.limits import Limits
from orchestrator.search import RULES, Replicates, Rule
from orchestrator.spec.names import check_key
from orchestrator.spec.program import is_program
from orchestrator.spec.reader import Path, Reader
from orchestrator.spec.settings import Budget, Metric, Resources
from orchestrator.trials import LAST, MEAN, At

# What W&B's files hold and a sweep here has no use for: said, and otherwise passed over.
NOT_NEEDED: dict[str, str] = {
    "entity": "sweeps live in this machine's MEANSWEEP_HOME",
    "project": "MLflow files the sweep under its `name`",
    "controller": "the driver that you start decides",
    "job": "trials run the installed package",
    "image_uri": "trials run the installed package",
    "apiVersion": "the file has one form",
    "kind": "the file is a sweep",
}
REFUSED: dict[str, str] = {
    "scheduler": "conditions are part of this file: `when`, `forbid`, `zip`; choose the search with `method`",
}
LAUNCH = ("job", "name", "num_workers", "resource", "resource_args")
"""Keys of a `scheduler` that only says how W&B Launch starts agents."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def note_wandb(reader: Reader, content: Mapping[str, Any]) -> None:
    """Say what becomes of the keys that only W&B knows."""
    for key in content:
        if key in NOT_NEEDED:
            reader.note((key,), f"not needed here: {NOT_NEEDED[key]}")
        elif key == "scheduler" and isinstance(content[key], Mapping) and set(content[key]) <= set(LAUNCH):
            reader.note(
                (key,),
                "not needed here: the driver starts the trials"
                + ("; `num_workers` is `max_concurrent`" if "num_workers" in content[key] else ""),
            )
        elif key in REFUSED:
            reader.wrong((key,), f"W&B's key is not known here: {REFUSED[key]}")
        elif key in ("program", "command") and isinstance(content.get("trainer"), str):
            reader.note((key,), f"not used: trials are of {content['trainer']}, which `trainer` names")


# -------------------------------------------------------------------------------------------------- metric


def read_metrics(reader: Reader, content: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Read `metric` (one) or `metrics` (several: a Pareto front)."""
    if "metric" in content and "metrics" in content:
        reader.wrong(("metrics",), "cannot be combined with `metric`; keep one of the two")
    if content.get("metrics") is not None:
        entries = reader.sequence(("metrics",), content["metrics"])
        if len(entries) < 2:
            reader.wrong(("metrics",), "needs at least two; for one write `metric`")
        found = tuple(_metric(reader, ("metrics", str(i)), entry) for i, entry in enumerate(entries))
        names = [metric.name for metric in found]
        for index, metric in enumerate(found):
            if metric.at != LAST:  # the best values of several metrics are of several reports, and of no one model
                rule = "several metrics are those of one report, the last one; leave it out with `metrics`"
                reader.wrong(("metrics", str(index), "at"), rule, metric.at.to_json())
        for index, name in enumerate(names):
            if name in names[:index]:
                reader.wrong(("metrics", str(index), "name"), "duplicate metric", name)
        return found or (Metric(name="eval/fid_1nfe"),)
    if content.get("metric") is None:
        name = "loss" if is_program(content) else "eval/fid_1nfe"
        reader.wrong(("metric",), f"is missing: what is optimised? e.g. {{name: {name}, goal: minimize}}")
        return (Metric(name="eval/fid_1nfe"),)
    return (_metric(reader, ("metric",), content["metric"]),)


def _metric(reader: Reader, path: Path, content: Any) -> Metric:
    valid = ("name", "goal", "target", "at")
    block = reader.mapping(path, content)
    reader.keys(path, {k: v for k, v in block.items() if not k.startswith("impute")}, valid)
    if block.get("impute") == "worst":
        reader.note((*path, "impute"), "not needed here: a diverged trial always counts as the worst")
    elif block.get("impute") is not None:
        rule = "a diverged trial counts as the worst, and a lost one is run again: its last or best value is never used"
        reader.wrong((*path, "impute"), rule, block["impute"])
    if not any(block.get("impute_while_running") is said for said in (None, False)):
        rule = "not known here: the search itself allows for running trials"
        reader.wrong((*path, "impute_while_running"), rule, block["impute_while_running"])
    if block.get("name") is None:
        reader.wrong((*path, "name"), "is missing, e.g. eval/fid_1nfe")
    name = reader.text((*path, "name"), block.get("name"), "eval/fid_1nfe")
    check_key(reader, (*path, "name"), name)
    goal = reader.choice((*path, "goal"), block.get("goal"), ("minimize", "maximize"), "minimize")
    target = reader.number((*path, "target"), block.get("target"))
    at = _at(reader, (*path, "at"), block.get("at"))
    return Metric(name=name, goal=cast(Literal["minimize", "maximize"], goal), target=target, at=at)


def _at(reader: Reader, path: Path, given: Any) -> At:
    """Read which reports of a trial count: `last`, `best`, `{mean_of_last: k}`."""
    if isinstance(given, Mapping):
        block = reader.mapping(path, given, (MEAN,))
        if not any(value is not None for value in block.values()):
            reader.wrong(path, f"is empty; e.g. {{{MEAN}: 3}}")
        return At(mean_of_last=reader.whole((*path, MEAN), block.get(MEAN), low=1) or 1)
    if given is not None and given not in ("last", "best"):
        rule = f"must be last, best or {{{MEAN}: 3}}, the mean of the last three reports"
        words = ["last", "best", f"{{{MEAN}: 3}}"]
        close = words[2] if "mean" in str(given) else nearest(str(given), words[:2])
        reader.wrong(path, rule, given, close=close)
    return At(best=given == "best")


# ------------------------------------------------------------------------------------- blocks of plain keys


def read_fields(reader: Reader, path: Path, cls: type, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a block for the fields of a dataclass, by their types and `Limits`; what is left out is not
    among them, nor what is wrong, which is noted."""
    found: dict[str, Any] = {}
    for name, annotation in get_type_hints(cls, include_extras=True).items():
        if get_origin(annotation) is not ClassVar and block.get(name) is not None:
            value = _read(reader, (*path, name), block[name], *typed(annotation))
            if value is not None:
                found[name] = value
    return found


def _read(reader: Reader, path: Path, value: Any, kind: Any, limits: Limits) -> Any:
    bounds = {key: bound for key, bound in asdict(limits).items() if bound is not None}
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return reader.choice(path, value, choices, choices[0])
    if kind is bool:
        return reader.flag(path, value, False)
    if kind is int:
        return reader.whole(path, value, low=int(bounds.get("low", 0)))
    if kind is float:
        return reader.number(path, value, **bounds)
    return reader.text(path, value, "")


def typed(annotation: Any) -> tuple[Any, Limits]:
    """Return the type of a field without `| None`, and its limits."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (argument for argument in get_args(annotation) if argument is not type(None))
    if get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__[0]
    return annotation, Limits()


# ------------------------------------------------------------------------------------------ early_terminate


def keys_of(rule: type[Rule]) -> tuple[str, ...]:
    """Return the keys that a rule has in the sweep file."""
    return ("type", *(field.name for field in fields(rule)), *rule.unused)


def read_early_terminate(reader: Reader, content: Any) -> Rule:
    """Read `early_terminate`; without one, trials are never stopped early."""
    path: Path = ("early_terminate",)
    if content is None:
        return Rule()
    every = sorted({key for rule in RULES.values() for key in keys_of(rule)})
    if isinstance(content, str):
        example = f"{{type: {content if content in RULES else 'asha'}, min_iter: 500}}"
        reader.wrong(path, f"must be a mapping of keys, e.g. {example}", content)
        return Rule()
    block = reader.mapping(path, content, every)
    if not isinstance(content, Mapping):
        return Rule()
    if block.get("type") is None:
        reader.wrong((*path, "type"), f"is missing: one of {', '.join(RULES)}")
        return Rule()
    kind = RULES[reader.choice((*path, "type"), block["type"], tuple(RULES), Rule.name)]
    for key in block:
        if key in every and key not in keys_of(kind):
            reader.wrong((*path, key), f"is not a key of `{kind.name}`, which has {', '.join(keys_of(kind))}")
    for key, why in kind.unused.items():
        if key in block:
            reader.flag((*path, key), block[key], True)
            reader.note((*path, key), f"not needed here: {why}")
    before = len(reader.problems)
    rule = kind(**read_fields(reader, path, kind, block))
    if len(reader.problems) == before:  # what is wrong by itself is not compared with the rest
        for problem in rule.problems():
            reader.wrong((*path, problem.key) if problem.key else path, problem.rule, problem.value)
    for key, text in rule.notes():
        reader.note((*path, key), text)
    return rule


# ------------------------------------------------------------------------- replicates, resources and budget


def read_replicates(reader: Reader, content: Any) -> Replicates | None:
    """Read `replicates`; None where there are none."""
    path: Path = ("replicates",)
    if content is None:
        return None
    block = reader.mapping(path, content, [field.name for field in fields(Replicates)])
    return Replicates(**read_fields(reader, path, Replicates, block))


LEAST = 0.0001
"""Of a resource: Ray counts in ten-thousandths."""


def read_resources(reader: Reader, content: Any) -> Resources:
    """Read `resources`."""
    path: Path = ("resources",)
    block = reader.mapping(path, content, ("cpu", "gpu", "workers", "custom"))
    cpu = reader.number((*path, "cpu"), block.get("cpu"), low=LEAST)
    gpu = reader.number((*path, "gpu"), block.get("gpu"), low=0)
    if gpu and gpu < LEAST:
        reader.wrong((*path, "gpu"), f"is less than Ray counts: 0, or {LEAST:g} and more", gpu)
    if gpu and gpu > 1 and gpu != int(gpu):
        reader.wrong((*path, "gpu"), "is a share of one GPU (up to 1) or a whole number of GPUs", gpu)
    workers = reader.whole((*path, "workers"), block.get("workers"), low=1) or 1
    if gpu and workers > 1 and gpu != int(gpu):
        reader.wrong((*path, "gpu"), "several workers need a whole GPU each", gpu)
    custom = {
        name: amount
        for name, value in reader.mapping((*path, "custom"), block.get("custom")).items()
        if (amount := reader.number((*path, "custom", name), value, low=LEAST)) is not None
    }
    return Resources(cpu=1.0 if cpu is None else float(cpu), gpu=float(gpu or 0), workers=workers, custom=custom)


def read_max_concurrent(reader: Reader, content: Mapping[str, Any]) -> int | None:
    """Read `max_concurrent`, or what W&B's `scheduler.num_workers` says."""
    found = reader.whole(("max_concurrent",), content.get("max_concurrent"), low=1)
    scheduler = content.get("scheduler")
    if found is not None or not isinstance(scheduler, Mapping) or not set(scheduler) <= set(LAUNCH):
        return found
    return reader.whole(("scheduler", "num_workers"), scheduler.get("num_workers"), low=1)


def read_budget(reader: Reader, content: Any) -> Budget:
    """Read `budget`."""
    path: Path = ("budget",)
    block = reader.mapping(path, content, [field.name for field in fields(Budget)])
    plain = {key: value for key, value in block.items() if key != "wall_clock"}
    wall_clock = read_duration(reader, (*path, "wall_clock"), block.get("wall_clock"))
    return Budget(**read_fields(reader, path, Budget, plain), wall_clock=wall_clock)


def read_duration(reader: Reader, path: Path, value: Any) -> float | None:
    """Seconds of `12h`, `90m`, `1h30m`, `2d`, or of a plain number."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        seconds = reader.number(path, value, above=0)
        return None if seconds is None else float(seconds)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])\s*", str(value))
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != re.sub(r"\s", "", str(value)):
        reader.wrong(path, "must be a duration like 12h, 90m, 1h30m or 2d (a plain number is seconds)", value)
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)
