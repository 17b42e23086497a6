"""A network alone in a file: its weights, and in the metadata all that rebuilds and samples it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from meanflow_core.config import FIRST, TrainConfig, load_config
from meanflow_core.flow import ConditionSpec
from meanflow_core.nets import build_net, fitted
from meanflow_core.training.checkpoint import CheckpointError, load_weights


def load_network(path: Path | str, net: nn.Module | None = None) -> tuple[nn.Module, TrainConfig, dict[str, Any]]:
    """Rebuild a network from a file of `Trainer.export`, without the data it was trained on.

    Args:
        path: of the file.
        net: gets the weights; needed where the trainer was given a module, whose arguments are not known.

    Returns:
        The network in evaluation mode on the CPU, its configuration, and the file's metadata. Of data with conditions
        it is called as net(z, r, t, labels, condition).

    Raises:
        CheckpointError: the file is missing, damaged, or does not hold such a network.
    """
    weights, metadata = load_weights(path)
    try:
        config = load_config(metadata["config"], defaults=FIRST)
        told = config.objective.guidance.input
        shape, classes = tuple(metadata["shape"]), metadata["num_classes"]
        condition = None if "condition" not in metadata else ConditionSpec.from_dict(metadata["condition"])
        if net is not None:
            net = fitted(net, type(net).__name__, classes, guided=told, condition=condition)
        elif metadata.get("given"):
            raise CheckpointError(
                f"{path}: its network ({config.model.name}) was given to the trainer as a module, whose arguments are "
                "not known: make it again, and call load_network(path, net=...)"
            )
        else:
            net = build_net(config.model, shape, classes, guided=told, condition=condition)
        net.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: does not hold a network with its configuration: {error}") from error
    return net.eval(), config, metadata
