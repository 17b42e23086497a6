"""The networks and trainings that the checks share: the three kinds of network, with weights that are not zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from meanflow_core.config import DiTConfig, MLPConfig, ModelConfig, TrainConfig, UNetConfig, load_config, with_values
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.training.trainer import Trainer
from scripts.gpu_check.check import Setting

CLASSES = 10
Shape = tuple[int, ...]


def networks(setting: Setting) -> dict[str, tuple[ModelConfig, Shape]]:
    """Return each kind of network with the shape of a row: middling on a GPU, tiny in a rehearsal."""
    if not setting.on_gpu:
        return {
            "mlp": (MLPConfig(width=16, depth=1), (1, 8, 8)),
            "dit": (DiTConfig(width=16, depth=1, heads=2, patch=4), (1, 8, 8)),
            "unet": (UNetConfig(channels=8, blocks=1, channel_mult=[1, 2], attention=[4], dropout=0.0), (1, 8, 8)),
        }
    return {
        "mlp": (MLPConfig(width=512, depth=4), (1, 8, 8)),
        "dit": (DiTConfig(width=384, depth=6, heads=6, patch=4), (4, 32, 32)),
        "unet": (UNetConfig(channels=64, blocks=2, attention=[16], dropout=0.0), (3, 32, 32)),
    }


def random_net(model: ModelConfig, shape: Shape, setting: Setting) -> nn.Module:
    """Return the network on the device; a zero-initialised one has u = du/dt = 0 and passes with any tangent."""
    torch.manual_seed(7)
    return randomise_(build_net(model, shape, CLASSES)).to(setting.device)


MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "width": 64, "depth": 2},
    "dit": {"name": "dit", "width": 64, "depth": 2, "heads": 4, "patch": 2},
    "unet": {"name": "unet", "channels": 16, "blocks": 1, "channel_mult": [1, 2], "attention": [4], "dropout": 0.1},
}
"""Networks of trainings on the digits, which ship with the package."""


def training(setting: Setting, model: str, *, guided: bool = False, **values: Any) -> TrainConfig:
    """Return the configuration of a small training on the digits; `values` are dotted keys, `__` for the dot."""
    config: dict[str, Any] = {
        "seed": 3,
        "model": MODELS[model],
        "optimizer.lr": 1e-3,
        "optimizer.clip_norm": 1.0,
        "trainer.steps": 400,
        "trainer.batch_size": 64,
        "trainer.log_every": 10,
        "trainer.device": setting.device,
        "ema.decays": [0.99],
        "evaluation.samples": 256,
        "evaluation.nfe": [1],
    }
    if guided:
        config |= {"objective.guidance.omega": 1.0, "objective.guidance.kappa": 0.5}
    return load_config({**config, **{key.replace("__", "."): value for key, value in values.items()}})


def trainer(config: TrainConfig) -> Trainer:
    """Return a trainer whose network has random weights throughout."""
    if config.trainer.sharding == "fsdp":
        whole = with_values(config, {"trainer.sharding": "none"})
        made = Trainer(config)
        made.load_state_dict(trainer(whole).state_dict())
        return made
    made = Trainer(config)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        randomise_(made.net)
    return made


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Return |value - reference| / |reference|, in float64."""
    reference = reference.double()
    return float((value.double() - reference).norm() / reference.norm())
