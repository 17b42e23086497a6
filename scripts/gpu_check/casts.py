"""Casts of weights in a bfloat16 step: how many there are, that they change no bit, and what they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from meanflow_core.training import training_loss
from meanflow_core.training.trainer import Trainer
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import trainer, training


class Casts(TorchDispatchMode):
    """Counts the operations that make numbers, the casts among them, and of each tensor its casts to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()
        """By the place of the tensor's memory."""
        self.casts = self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count it."""
        result = func(*args, **(kwargs or {}))
        self.operations += isinstance(result, Tensor) and result.numel() > 0 and not result._is_view()
        if func is torch.ops.aten._to_copy.default and args[0].dtype != result.dtype:
            self.casts += 1
            if result.dtype == torch.bfloat16:
                self.of[args[0].untyped_storage().data_ptr()] += 1
        return result

    def of_weights(self, *nets: nn.Module) -> list[int]:
        """Return how often each parameter was cast to bfloat16."""
        return [self.of[parameter.untyped_storage().data_ptr()] for net in nets for parameter in net.parameters()]


def casts(setting: Setting) -> Figures:
    """Count the casts of a guided DiT's step, as it is and with weights cast at each use, and compare the weights."""
    found: dict[str, Any] = {}
    ends: list[list[Tensor]] = []
    for name in ("once", "each use"):
        each_use = mock.patch.object(training_loss, "cast_once", return_value=nullcontext())
        with each_use if name == "each use" else nullcontext():
            made = _trainer(setting)
            made.train(5)
            with Casts() as counted:
                made._train_step()
            rate = made.train(setting.size(40, 2))[-1][1]["train/steps_per_second"]
        times = counted.of_weights(made.net)
        found[name] = {
            "casts_a_weight": [min(times), max(times)],
            "casts": counted.casts,
            "share_of_operations": round(counted.casts / counted.operations, 3),
            "steps_per_second": round(rate, 2),
        }
        ends.append([parameter.detach().clone() for parameter in made.net.parameters()])
    return demand(
        found,
        each_weight_is_cast_once=found["once"]["casts_a_weight"] == [1, 1],
        no_bit_is_changed=_equal(*ends),
    )


def _trainer(setting: Setting) -> Trainer:
    sizes = {"model__width": setting.size(384, 32), "model__depth": setting.size(6, 2)}
    return trainer(training(setting, "dit", guided=True, trainer__precision="bf16", **sizes))


def _equal(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
