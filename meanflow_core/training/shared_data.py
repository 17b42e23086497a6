"""The data of a training, and the evaluator that goes with them: named, shared, or given in code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from meanflow_core.config import CustomData, CustomModel, DataConfig, EvaluationConfig, TrainConfig
from meanflow_core.data import Dataset, as_dataset, build_dataset
from meanflow_core.metrics import Evaluator, build_evaluator


@dataclass(frozen=True)
class SharedData:
    """What the trials of a node can share: the data and the evaluator with its reference statistics."""

    data: DataConfig
    evaluation: EvaluationConfig
    dataset: Dataset
    evaluator: Evaluator


def load_shared(config: TrainConfig) -> SharedData:
    """Load what a configuration names."""
    return _judged(config, build_dataset(config.data))


def fitting(config: TrainConfig, shared: SharedData | None, data: Any = None) -> SharedData:
    """Return what a training uses: data given in code, what was shared as far as it belongs to it, or what it names."""
    if data is not None:
        return _judged(config, as_dataset(data, key="data"))
    if shared is None or shared.data != config.data:
        return load_shared(config)
    return shared if shared.evaluation == config.evaluation else _judged(config, shared.dataset)


def _judged(config: TrainConfig, dataset: Dataset) -> SharedData:
    return SharedData(config.data, config.evaluation, dataset, build_evaluator(config.evaluation, dataset))


def as_given(config: TrainConfig, net: nn.Module | None, data: Any) -> TrainConfig:
    """Say in the configuration what was given in code in the place of its `model` and `data`."""
    if net is not None:
        config = replace(config, model=CustomModel(name=_kind(net)))
    if data is not None:
        config = replace(config, data=CustomData(name=_kind(data)))
    return config


def _kind(given: object) -> str:
    return f"{type(given).__module__}:{type(given).__name__}"
