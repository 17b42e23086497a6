"""An average of the weights as a network of its own, which makes an objective's targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from meanflow_core.config import EMAConfig
from meanflow_core.training.ema import EMA, ema_name


class Teacher:
    """The average and the network that has it.

    Args:
        net: the network that is trained; the average starts as a copy of its weights.
        decay: of the average.
        rampup: as `ema.rampup`: without it the teacher holds the initial weights for long.
    """

    def __init__(self, net: nn.Module, decay: float, rampup: float | None) -> None:
        self._name = ema_name(decay)
        self._ema = EMA(net, EMAConfig(decays=[decay], rampup=rampup))
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        """In evaluation mode; its weights are the average's own tensors."""
        self.net.load_state_dict(self.state_dict(), assign=True)

    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step`."""
        self._ema.update(net, step)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average; the tensors are the live ones."""
        return self._ema.averages[self._name]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take an average over, or the weights of a network that had no teacher.

        Raises:
            KeyError: they are another network's.
        """
        self._ema.load_state_dict({self._name: state})
