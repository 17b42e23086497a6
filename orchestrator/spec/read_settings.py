"""Metric, early stopping, replicates, resources and budget of a sweep file, and W&B's keys that mean nothing here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast, get_type_hints

from orchestrator.spec.reader import Path, Reader
from orchestrator.spec.settings import STOPPING, Budget, EarlyTerminate, Metric, Replicates, Resources

# What W&B's files hold and a sweep here has no use for: said, and otherwise passed over.
NOT_NEEDED: dict[str, str] = {
    "program": "every trial is the trainer (`trainer: package.module:Class` for one of your own)",
    "command": "no command line is built; fixed arguments belong in `set`",
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
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def note_wandb(reader: Reader, content: Mapping[str, Any]) -> None:
    """Say what becomes of the keys that only W&B knows."""
    for key in content:
        if key in NOT_NEEDED:
            reader.note((key,), f"not needed here: {NOT_NEEDED[key]}")
        elif key in REFUSED:
            reader.wrong((key,), f"W&B's key is not known here: {REFUSED[key]}")


# -------------------------------------------------------------------------------------------------- metric


def read_metrics(reader: Reader, content: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Read `metric` (one) or `metrics` (several: a Pareto front)."""
    if "metric" in content and "metrics" in content:
        reader.wrong(("metrics",), "stands beside `metric`; keep one of the two")
    if content.get("metrics") is not None:
        entries = reader.sequence(("metrics",), content["metrics"])
        if len(entries) < 2:
            reader.wrong(("metrics",), "needs at least two; for one write `metric`")
        found = tuple(_metric(reader, ("metrics", str(i)), entry) for i, entry in enumerate(entries))
        names = [metric.name for metric in found]
        for index, name in enumerate(names):
            if name in names[:index]:
                reader.wrong(("metrics", str(index), "name"), "stands twice", name)
        return found or (Metric(name="eval/fid_1nfe"),)
    if content.get("metric") is None:
        reader.wrong(("metric",), "is missing: what is optimised? e.g. {name: eval/fid_1nfe, goal: minimize}")
        return (Metric(name="eval/fid_1nfe"),)
    return (_metric(reader, ("metric",), content["metric"]),)


def _metric(reader: Reader, path: Path, content: Any) -> Metric:
    valid = ("name", "goal", "target")
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
    goal = reader.choice((*path, "goal"), block.get("goal"), ("minimize", "maximize"), "minimize")
    target = reader.number((*path, "target"), block.get("target"))
    return Metric(name=name, goal=cast(Literal["minimize", "maximize"], goal), target=target)


# ------------------------------------------------------------------------------------------ early_terminate

_COMMON = ("type", "min_iter")
_BY_TYPE: dict[str, tuple[str, ...]] = {
    "asha": ("max_iter", "s", "eta", "promote", "unit", "brackets", "strict"),
    "hyperband": ("max_iter", "s", "eta", "promote", "unit", "brackets", "strict"),
    "median": ("warmup_trials",),
    "percentile": ("percentile", "warmup_trials"),
    "patience": ("patience", "min_delta"),
    "threshold": ("lower", "upper"),
    "none": (),
}


def read_early_terminate(reader: Reader, content: Any) -> EarlyTerminate | None:
    """Read `early_terminate`; None where trials are never stopped early."""
    path: Path = ("early_terminate",)
    if content is None:
        return None
    every = sorted({*_COMMON, *(key for keys in _BY_TYPE.values() for key in keys)})
    if isinstance(content, str):
        example = f"{{type: {content if content in STOPPING else 'asha'}, min_iter: 500}}"
        reader.wrong(path, f"must be a mapping of keys, e.g. {example}", content)
        return None
    block = reader.mapping(path, content, every)
    if not isinstance(content, Mapping):
        return None
    if block.get("type") is None:
        reader.wrong((*path, "type"), f"is missing: one of {', '.join(STOPPING)}")
        return None
    kind = reader.choice((*path, "type"), block["type"], tuple(STOPPING), "none")
    for key in block:
        if key in every and key not in (*_COMMON, *_BY_TYPE[kind]):
            allowed = ", ".join((*_COMMON, *_BY_TYPE[kind]))
            reader.wrong((*path, key), f"means nothing to `{kind}`, which has {allowed}")
    if kind == "none":
        return None
    if "strict" in block:
        reader.flag((*path, "strict"), block["strict"], True)
        reader.note(
            (*path, "strict"), "not needed here: a trial is judged once at each rung, against all that reached it"
        )
    values = {
        "type": kind,
        "unit": reader.choice((*path, "unit"), block.get("unit"), ("steps", "images"), "steps"),
        "min_iter": reader.whole((*path, "min_iter"), block.get("min_iter"), low=1),
        "max_iter": reader.whole((*path, "max_iter"), block.get("max_iter"), low=2),
        "s": reader.whole((*path, "s"), block.get("s"), low=1),
        "eta": reader.number((*path, "eta"), block.get("eta"), above=1),
        "promote": reader.flag((*path, "promote"), block.get("promote"), False),
        "brackets": reader.whole((*path, "brackets"), block.get("brackets"), low=1),
        "percentile": reader.number((*path, "percentile"), block.get("percentile"), above=0, high=100),
        "patience": reader.whole((*path, "patience"), block.get("patience"), low=1),
        "min_delta": reader.number((*path, "min_delta"), block.get("min_delta"), low=0),
        "lower": reader.number((*path, "lower"), block.get("lower")),
        "upper": reader.number((*path, "upper"), block.get("upper")),
        "warmup_trials": reader.whole((*path, "warmup_trials"), block.get("warmup_trials"), low=1),
    }
    found = EarlyTerminate(**{key: value for key, value in values.items() if value is not None})  # type: ignore[arg-type]
    _check_early(reader, path, block, found)
    return found


def _check_early(reader: Reader, path: Path, block: Mapping[str, Any], found: EarlyTerminate) -> None:
    if found.ranked:
        if "min_iter" not in block and not ("max_iter" in block and "s" in block):
            reader.wrong(path, "needs `min_iter` (the first rung), or `max_iter` and `s` (the number of rungs)")
        if "min_iter" in block and "s" in block:
            reader.wrong(
                (*path, "s"), "counts rungs down from `max_iter`; with `min_iter` they are counted up: keep one"
            )
        if found.min_iter and found.max_iter and found.min_iter >= found.max_iter:
            reader.wrong((*path, "min_iter"), f"`min_iter < max_iter` must hold (max_iter is {found.max_iter})")
        if 0 < (found.min_iter or 99) < 10:
            unit = found.unit
            reader.note(
                (*path, "min_iter"),
                f"counts {unit}, not log calls as in W&B: the first rung is at {found.min_iter} {unit}",
            )
    if found.type == "threshold":
        if found.lower is None and found.upper is None:
            reader.wrong(path, "needs `lower` or `upper`")
        elif found.lower is not None and found.upper is not None and found.lower >= found.upper:
            reader.wrong((*path, "lower"), f"`lower < upper` must hold (upper is {found.upper:g})", found.lower)


# ------------------------------------------------------------------------- replicates, resources and budget


def read_replicates(reader: Reader, content: Any) -> Replicates | None:
    """Read `replicates`; None where there are none."""
    path: Path = ("replicates",)
    if content is None:
        return None
    block = reader.mapping(path, content, ("top", "seeds", "race"))
    default = Replicates()
    race = reader.flag((*path, "race"), block.get("race"), False)
    return Replicates(
        top=reader.whole((*path, "top"), block.get("top"), low=1) or default.top,
        seeds=reader.whole((*path, "seeds"), block.get("seeds"), low=1) or default.seeds,
        race=race,
    )


def read_resources(reader: Reader, content: Any) -> Resources:
    """Read `resources`."""
    path: Path = ("resources",)
    block = reader.mapping(path, content, ("cpu", "gpu", "workers", "custom"))
    cpu = reader.number((*path, "cpu"), block.get("cpu"), above=0)
    gpu = reader.number((*path, "gpu"), block.get("gpu"), low=0)
    if gpu and gpu > 1 and gpu != int(gpu):
        reader.wrong((*path, "gpu"), "is a share of one GPU (up to 1) or a whole number of GPUs", gpu)
    workers = reader.whole((*path, "workers"), block.get("workers"), low=1) or 1
    if gpu and workers > 1 and gpu != int(gpu):
        reader.wrong((*path, "gpu"), "several workers need a whole GPU each", gpu)
    custom = {
        name: amount
        for name, value in reader.mapping((*path, "custom"), block.get("custom")).items()
        if (amount := reader.number((*path, "custom", name), value, above=0)) is not None
    }
    return Resources(cpu=1.0 if cpu is None else float(cpu), gpu=float(gpu or 0), workers=workers, custom=custom)


def read_budget(reader: Reader, content: Any) -> Budget:
    """Read `budget`."""
    path: Path = ("budget",)
    block = reader.mapping(path, content, tuple(get_type_hints(Budget)))
    return Budget(
        gpu_hours=reader.number((*path, "gpu_hours"), block.get("gpu_hours"), above=0),
        wall_clock=read_duration(reader, (*path, "wall_clock"), block.get("wall_clock")),
        trials=reader.whole((*path, "trials"), block.get("trials"), low=1),
    )


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
