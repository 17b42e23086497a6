"""Moving averages of the weights: several at once, exponential ones with EDM's ramp-up, and power functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_core.config import EMAConfig
from meanflow_core.training.post_hoc import decay_of
from meanflow_core.training.sharding import Shards


def decay_at(step: int, decay: float, rampup: float | None) -> float:
    """Return the decay of the update after optimiser step `step` (the first is 1).

    EDM's ramp-up: the half-life in steps is at most `rampup * step`, so the initial weights are forgotten early.
    """
    if rampup is None:
        return decay
    return min(decay, math.pow(0.5, 1.0 / (rampup * step)))


def ema_name(decay: float) -> str:
    """Return the name of an average in metrics and checkpoints, e.g. `ema_0.999`."""
    return f"ema_{decay:g}"


_LENGTH = "length_"


def length_name(length: float) -> str:
    """Return the name of a power-function average in checkpoints, e.g. `length_0.05`."""
    return f"{_LENGTH}{length:g}"


def length_of(name: str) -> float | None:
    """Return the length of the average that has such a name; None: it is another's."""
    return float(name.removeprefix(_LENGTH)) if name.startswith(_LENGTH) else None


class EMA:
    """Averages of a network's floating-point parameters and buffers; others are copied.

    Args:
        net: the network; the averages start as copies of its weights.
        config: the decays and the ramp-up, and the lengths.
        shards: where `net` is in shards: what is averaged are this process's rows of its parameters.
    """

    def __init__(self, net: nn.Module, config: EMAConfig, shards: Shards | None = None) -> None:
        self._config, self._shards = config, shards
        self.averages: dict[str, dict[str, Tensor]] = {
            name: {key: tensor.detach().clone() for key, tensor in self._current(net).items()}
            for name in self._decays(1)
        }

    def _current(self, net: nn.Module) -> dict[str, Tensor]:
        return net.state_dict() if self._shards is None else self._shards.state()

    def _decays(self, step: int) -> dict[str, float]:
        """Return the decay of each average, by its name, after optimiser step `step`."""
        config = self._config
        return {
            **{ema_name(decay): decay_at(step, decay, config.rampup) for decay in config.decays},
            **{length_name(length): decay_of(length, step) for length in config.lengths},
        }

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step`: average += (1 - decay) (weight - average)."""
        current = self._current(net)
        moving = [name for name, tensor in current.items() if tensor.is_floating_point()]
        for key, decay in self._decays(step).items():
            average, share = self.averages[key], 1.0 - decay
            torch._foreach_lerp_([average[name] for name in moving], [current[name] for name in moving], share)
            for name in current.keys() - set(moving):
                average[name].copy_(current[name])

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the averages by name; the tensors are the live ones, not copies."""
        return self.averages

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the averages.

        Raises:
            ValueError: `state` holds other averages than this run keeps.
        """
        if set(state) != set(self.averages):
            raise ValueError(f"the saved averages are {sorted(state)}, this run keeps {sorted(self.averages)}")
        for name, average in self.averages.items():
            for key, tensor in average.items():
                tensor.copy_(state[name][key])
