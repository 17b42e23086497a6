"""The optimiser, its learning-rate schedule, and its state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_core.config import OptimizerConfig
from meanflow_core.training.sharding import Shards


def learning_rate(step: int, config: OptimizerConfig, steps: int) -> float:
    """Return the learning rate of optimiser step `step` (the first is 0) of a run of `steps`.

    Linear warm-up: step k has (k + 1) / warmup_steps of the full rate. Then constant, or half a cosine that reaches
    zero after the last step; beyond it the rate stays zero.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Optimizer:
    """Adam or AdamW in its fused form: one pass over each tensor, and an update that the device itself can skip.

    Weight decay acts on matrices only (tensors of two or more dimensions), not on biases and gains.

    Args:
        net: whose parameters are trained, on their device.
        config: of the optimiser.
        steps: length of the run, where a cosine schedule ends.
        shards: where `net` is in shards: what is updated are this process's rows of its parameters.
    """

    def __init__(self, net: nn.Module, config: OptimizerConfig, steps: int, shards: Shards | None = None) -> None:
        self._config, self._steps, self._shards = config, steps, shards
        named = dict(net.named_parameters()) if shards is None else shards.own
        self._names = {parameter: name for name, parameter in named.items() if parameter.requires_grad}
        groups = [
            {"params": [p for p in self._names if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in self._names if p.ndim < 2], "weight_decay": 0.0},
        ]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
        self.lr = 0.0
        """Learning rate of the last step."""
        betas = (config.beta1, config.beta2)
        self.inner = kind([g for g in groups if g["params"]], lr=config.lr, betas=betas, eps=config.eps, fused=True)

    def step(self, step: int) -> Tensor:
        """Clip, and update the weights with the learning rate of `step`.

        A gradient that is not finite leaves the weights and the moments as they are. That is decided on the device,
        so the host need not wait.

        Returns:
            The norm of the whole gradient before clipping (a scalar on the device).
        """
        if self._shards is not None:
            self._shards.take_gradients()
        gradients = [parameter.grad for parameter in self._names if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if self._shards is None else self._shards.norm(gradients)
        if self._config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(list(self._names), self._config.clip_norm, norm)
        self.lr = learning_rate(step, self._config, self._steps)
        for group in self.inner.param_groups:
            group["lr"] = self.lr
        # The fused kernels skip the update where this flag is 1: the gradient scaler's own way to drop a step.
        self.inner.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.inner.step()
        return norm

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.inner.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the moments and step counts of each parameter, by its name (empty before the first step)."""
        return {name: dict(self.inner.state[parameter]) for parameter, name in self._names.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over moments and step counts; learning rate and betas are this run's own.

        Raises:
            ValueError: the parameters' names differ.
        """
        if set(state) != set(self._names.values()):
            raise ValueError("the saved optimiser state belongs to another network: the names of the parameters differ")
        for parameter, name in self._names.items():
            saved = {key: value.to(parameter.device, copy=True) for key, value in state[name].items()}
            self.inner.state[parameter].clear()
            self.inner.state[parameter].update(saved)
