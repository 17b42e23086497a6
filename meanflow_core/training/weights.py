"""The weights of a training and their averages, by name; whole ones also where each process holds its rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from meanflow_core.config import EMAConfig
from meanflow_core.training.ema import EMA, ema_name
from meanflow_core.training.optim import Optimizer
from meanflow_core.training.sharding import Shards

State = dict[str, Tensor]


class Weights:
    """The raw weights and the averages of `ema.decays`, the primary ones first.

    Args:
        net: that is trained.
        ema: its averages.
        config: of them.
        shards: where the network is in shards; every process then calls these methods.
    """

    def __init__(self, net: nn.Module, ema: EMA, config: EMAConfig, shards: Shards | None) -> None:
        self._net, self._ema, self._config, self._shards = net, ema, config, shards
        self.structure = net if shards is None else shards.structure
        """A module that takes any of the sets in `torch.func.functional_call`."""

    def live(self) -> dict[str, State]:
        """Return this process's tensors of every set."""
        averages = {ema_name(decay): self._ema.averages[ema_name(decay)] for decay in self._config.decays}
        return {**averages, "raw": self._raw()}

    def whole(self, name: str | None = None) -> State:
        """Return a set, the primary one by default: its live tensors, or copies gathered from all processes."""
        sets = self.live()
        rows = sets[next(iter(sets)) if name is None else name]
        return rows if self._shards is None else self._shards.whole(rows)

    def use(self, weights: Mapping[str, Tensor]) -> None:
        """Let the primary set have these values."""
        own = weights if self._shards is None else self._shards.parts(weights)
        for name, tensor in next(iter(self.live().values())).items():
            tensor.copy_(own[name])

    def _raw(self) -> State:
        return self._net.state_dict() if self._shards is None else self._shards.state()

    # ---------------------------------------------------------------------------------------------- state

    def state_dict(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return `net`, `optimizer` and `ema` whole: live tensors, or copies in the first process alone."""
        shards, moments, averages = self._shards, optimizer.state_dict(), self._ema.state_dict()
        if shards is None:
            return {"net": self._raw(), "optimizer": moments, "ema": averages}
        return {
            "net": shards.saved(self._raw()),
            "optimizer": {name: shards.saved_moments(name, entry) for name, entry in moments.items()},
            "ema": {name: shards.saved(average) for name, average in averages.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], optimizer: Optimizer) -> None:
        """Take over what `state_dict` returned, of any number of processes.

        Raises:
            KeyError, RuntimeError, ValueError: it is another network's.
        """
        shards = self._shards
        if shards is None:
            self._net.load_state_dict(state["net"])
            optimizer.load_state_dict(state["optimizer"])
            self._ema.load_state_dict(state["ema"])
            return
        shards.load(state["net"])
        moments = {name: shards.parts_of_moments(name, entry) for name, entry in state["optimizer"].items()}
        optimizer.load_state_dict(moments)
        self._ema.load_state_dict({name: shards.parts(average) for name, average in state["ema"].items()})
