"""What a trainer returns, checked: a mistake in it names the method, the key and what was expected."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from meanflow_core.errors import TrainingDiverged

Rows = list[tuple[int, dict[str, float]]]


@contextmanager
def kept_from_leaving() -> Iterator[None]:
    """Turn what would end Python into an error of the trial: `sys.exit`, and others that are no `Exception`.

    A `KeyboardInterrupt` passes: it may be the user's.
    """
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"the trainer called sys.exit({error.code!r})") from error
    except BaseException as error:
        if isinstance(error, Exception | KeyboardInterrupt):
            raise
        said = f": {error}" if str(error) else ""
        raise RuntimeError(f"the trainer raised {type(error).__name__}{said}") from error


def as_rows(result: Any, step: int) -> Rows:
    """Return what `train` returned as rows: a list of (step, metrics), one dictionary, or nothing.

    Raises:
        TypeError: it is something else.
    """
    if result is None:
        return []
    if isinstance(result, Mapping):
        return [(step, _numbers(result, "train()"))]
    try:
        return [(int(at), _numbers(row, "train()")) for at, row in result]
    except (TypeError, ValueError, OverflowError) as error:
        if "train()" in str(error):
            raise
        rule = "must return a dict of numbers, a list of (step, dict), or None"
        raise TypeError(f"train() {rule}; it returned {_kind(result)}") from error


def as_metrics(result: Any, step: int, rows: Rows, wanted: Collection[str]) -> dict[str, float]:
    """Return what `evaluate` returned as numbers; one that is not finite ends a trial where the sweep goes by it.

    Args:
        result: what it returned.
        step: where the trainer stands.
        rows: training metrics of the last stretch.
        wanted: the metrics of the sweep; empty: all.

    Raises:
        TypeError: it is no dict of numbers.
        TrainingDiverged: a metric of the sweep is not finite.
    """
    if not isinstance(result, Mapping):
        raise TypeError(f"evaluate() must return a dict of numbers by name; it returned {_kind(result)}")
    values = _numbers(result, "evaluate()")
    bad = [
        f"{name} is {value}"
        for name, value in values.items()
        if not math.isfinite(value) and (not wanted or name in wanted)
    ]
    if not bad:
        return values
    last: dict[str, float] = {}
    for at, row in rows:
        if all(math.isfinite(value) for value in row.values()):
            last = {"step": float(at), **row}
    raise TrainingDiverged(step, "; ".join(bad), last)


def check_state(state: Any, place: str = "state_dict()") -> None:
    """Refuse, before anything is trained, a state that cannot be saved.

    Raises:
        TypeError: naming the key of what is neither a tensor nor plain data.
    """
    if state is None or isinstance(state, bool | int | float | str) or _is_tensor(state):
        return
    if isinstance(state, Mapping):
        for key, value in state.items():
            check_state(value, f"{place}[{key!r}]")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            check_state(value, f"{place}[{index}]")
    else:
        raise TypeError(f"{place} is {_kind(state)}, which cannot be saved: return tensors and plain data")


def _numbers(row: Any, where: str) -> dict[str, float]:
    if not isinstance(row, Mapping):
        raise TypeError(f"{where} must return a dict of numbers by name; found {_kind(row)}")
    return {str(name): _number(value, str(name), where) for name, value in row.items()}


def _number(value: Any, name: str, where: str) -> float:
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except Exception as error:  # whatever its __float__ does; a whole number may be beyond floats
        raise TypeError(f"{where}: `{name}` must be a number; it is {_kind(value)}") from error


def _kind(value: Any) -> str:
    said = repr(value)
    return "None" if value is None else f"a {type(value).__name__} ({said[:40]}{'...' if len(said) > 40 else ''})"


def _is_tensor(value: Any) -> bool:
    return any(cls.__module__.partition(".")[0] == "torch" and cls.__name__ == "Tensor" for cls in type(value).__mro__)
