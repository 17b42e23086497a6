"""What the trials of a sweep train, in a few lines: data, network, objective, length; and what of it is a default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meanflow_core.config import (
    Cifar10Config,
    CustomSection,
    DataConfig,
    DigitsConfig,
    MnistConfig,
    TrainConfig,
    load_config,
)
from meanflow_core.errors import ConfigError
from orchestrator.formatting import number
from orchestrator.spec import flat

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

BUILT = 12
"""Most networks that are built (on the meta device) to count their parameters."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing about the training."""

    what: str
    value: str
    default: bool = False
    """Whether it is so because nobody said otherwise."""

    def __str__(self) -> str:
        return f"{self.value}{' (default)' if self.default else ''}"


def training_facts(spec: SweepSpec, configs: Sequence[Mapping[str, Any]], *, thorough: bool) -> list[Fact]:
    """Return what the trials train.

    Args:
        spec: the sweep.
        configs: configurations drawn from it, at least one.
        thorough: say the shape of the rows and count parameters, for which torch is imported.
    """
    facts = list(_of_meanflow(spec, configs, thorough) if spec.builtin_trainer else _of_own(spec, configs))
    metrics = ", ".join(metric.words for metric in spec.metrics)
    said = "seed" in {**spec.source["sweep"], **spec.set} or spec.seed != 0
    return [*facts, Fact(what="metric", value=metrics), Fact(what="seed", value=str(spec.seed), default=not said)]


def _of_meanflow(spec: SweepSpec, configs: Sequence[Mapping[str, Any]], thorough: bool) -> Iterable[Fact]:
    usual = flat(TrainConfig().to_dict())

    def is_default(*keys: str) -> bool:
        return not any(key in spec.space.names for key in keys) and all(
            flat(configs[0]).get(key) == usual.get(key) for key in keys
        )

    read = [load_config(dict(config)) for config in configs[:BUILT]] if thorough else []
    yield Fact(what="data", value=_range(spec, configs, "data.name") + _shape(read), default=is_default("data.name"))
    yield Fact(
        what="network",
        value=_range(spec, configs, "model.name") + _parameters(read),
        default=is_default(*(key for key in usual if key.startswith("model."))),
    )
    for what, key in (
        ("objective", "objective.name"),
        ("steps a trial", "trainer.steps"),
        ("batch", "trainer.batch_size"),
    ):
        yield Fact(what=what, value=_range(spec, configs, key), default=is_default(key))


REPORTS = {
    "report": "by `orchestrator.report`, not by what it prints (that is `trainer: {metrics: stdout-json}`)",
    "stdout-json": "lines of JSON on its standard output, or `orchestrator.report`",
}
"""How an own program reports its metrics."""


def _of_own(spec: SweepSpec, configs: Sequence[Mapping[str, Any]]) -> Iterable[Fact]:
    if spec.program is not None:
        said = spec.source["sweep"].get("trainer") or {}
        yield Fact(what="program", value=f"{spec.program.name} in {spec.program.place()}")
        yield Fact(what="reports", value=REPORTS[spec.program.metrics], default=said.get("metrics") is None)
        if spec.program.steps is not None:
            yield Fact(what="steps a trial", value=str(spec.program.steps))
    else:
        yield Fact(what="trainer", value=spec.trainer)
    for what, key in (("steps a trial", "trainer.steps"), ("batch", "trainer.batch_size")):
        if any(key in flat(config) for config in configs):
            yield Fact(what=what, value=_range(spec, configs, key))


def _range(spec: SweepSpec, configs: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return the value of a key, or where it varies its values or its range."""
    values = list(dict.fromkeys(flat(config).get(key) for config in configs))
    if len(values) == 1:
        return number(values[0], 6)
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values):
        return f"{number(min(numbers), 6)} to {number(max(numbers), 6)} (searched)"
    return f"{', '.join(map(str, values))} (searched)"


def _shape(configs: Sequence[TrainConfig]) -> str:
    """Return ` (rows of 1x8x8)` where all have it; of the user's own data nothing, they would have to be read."""
    if not configs or any(isinstance(config.data, CustomSection) for config in configs):
        return ""
    from meanflow_core.data import DataError, row_shape

    try:
        shapes = {row_shape(config.data) for config in configs}
    except (ConfigError, DataError, OSError):  # files that are not here; `missing here` says which
        return ""
    return f" (rows of {'x'.join(map(str, shapes.pop()))})" if len(shapes) == 1 else ""


def _parameters(configs: Sequence[TrainConfig]) -> str:
    """Return `, 213,000 parameters`, of networks that differ the smallest and the largest number."""
    different = {repr((config.model, config.data, config.objective.guidance.input)): config for config in configs}
    counts = [count for config in different.values() if (count := _count(config)) is not None]
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f", {low:,} parameters" if low == high else f", {low:,} to {high:,} parameters"


def _count(config: TrainConfig) -> int | None:
    """Return the number of parameters of a network; None where data or network are the user's own, or do not fit."""
    import torch

    from meanflow_core.data import DataError, row_shape
    from meanflow_core.nets import build_net

    if isinstance(config.data, CustomSection) or isinstance(config.model, CustomSection):
        return None
    try:
        classes = _classes(config.data)
        with torch.device("meta"):
            net = build_net(config.model, row_shape(config.data), classes, guided=config.objective.guidance.input)
    except (ConfigError, DataError, OSError):  # what is missing or does not fit is said elsewhere in the plan
        return None
    return sum(parameter.numel() for parameter in net.parameters())


def _classes(data: DataConfig) -> int | None:
    """Return the number of classes; of folders and latents from their index, no rows are read."""
    from meanflow_core.data import build_dataset

    if isinstance(data, DigitsConfig | MnistConfig):
        return 10
    if isinstance(data, Cifar10Config):
        return 10 if data.labels else None
    return build_dataset(data).num_classes
