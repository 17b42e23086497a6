"""From a model's configuration to the network."""

from __future__ import annotations

from typing import assert_never

from torch import nn

from meanflow_core.config import CustomModel, DiTConfig, MLPConfig, ModelConfig, UNetConfig
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.flow import ConditionSpec
from meanflow_core.nets.custom import build_custom
from meanflow_core.nets.dit import DiT
from meanflow_core.nets.mlp import MLP
from meanflow_core.nets.prediction import ImagePrediction
from meanflow_core.nets.unet import UNet


def build_net(
    config: ModelConfig,
    shape: tuple[int, ...],
    num_classes: int | None,
    *,
    guided: bool = False,
    condition: ConditionSpec | None = None,
) -> nn.Module:
    """Build the network u(z, r, t, labels), with the initial weights torch's global generator draws.

    Args:
        config: which network, and its sizes.
        shape: of one row of z, without the batch.
        num_classes: number of labels, or None for data without labels.
        guided: whether the scale of guidance is an input (`objective.guidance.input`).
        condition: of the data, if they have conditions beside or instead of labels.

    Raises:
        ConfigError: the network does not fit data of this shape, or data without labels is to be guided.
    """
    _check_shape(config, shape)
    if guided and num_classes is None and condition is None:
        rule = "guidance is towards a class or a condition, and these data have neither"
        raise ConfigError([Problem(key="objective.guidance.input", value=True, rule=rule)])
    if isinstance(config, CustomModel):
        return build_custom(config, shape, num_classes, guided=guided, condition=condition)
    if condition is not None:
        rule = f"takes no condition, and these data have one of shape {condition.shape}; name a network of your own"
        raise ConfigError([Problem(key="model.name", value=config.name, rule=rule)])
    net = _network(config, shape, num_classes, guided)
    return ImagePrediction(net) if config.prediction == "x" else net


def _network(
    config: MLPConfig | DiTConfig | UNetConfig, shape: tuple[int, ...], num_classes: int | None, guided: bool
) -> nn.Module:
    match config:
        case MLPConfig():
            return MLP(config, shape, num_classes, guided=guided)
        case DiTConfig():
            return DiT(config, shape, num_classes, guided=guided)
        case UNetConfig():
            return UNet(config, shape, num_classes, guided=guided)
        case _:
            assert_never(config)


def _check_shape(config: ModelConfig, shape: tuple[int, ...]) -> None:
    if not isinstance(config, DiTConfig | UNetConfig):
        return
    if len(shape) != 3:
        rule = f"needs images (channels, height, width), but one row of the data has the shape {shape}; use `mlp`"
        raise ConfigError([Problem(key="model.name", value=config.name, rule=rule)])
    if isinstance(config, DiTConfig):
        key, value, divisor = "model.patch", config.patch, config.patch
    else:
        halvings = len(config.channel_mult) - 1
        key, value, divisor = "model.channel_mult", config.channel_mult, 2**halvings  # type: ignore[assignment]
    if shape[1] % divisor or shape[2] % divisor:
        rule = f"height and width of the data ({shape[1]}x{shape[2]}) must be multiples of {divisor}"
        raise ConfigError([Problem(key=key, value=value, rule=rule)])
