"""The whole loss of a part of a batch as one module: what DDP wraps and torch.compile compiles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from meanflow_core.config import ObjectiveConfig
from meanflow_core.distributed import in_shards
from meanflow_core.half_precision import cast_once, casts_are_held
from meanflow_core.objectives import choose_target, meanflow_loss
from meanflow_core.rng import one_draw
from meanflow_core.training.batches import Microbatch

SUMS = ("squared_error", "velocity_error", "u_norm", "target_norm", "velocity_power", "weight")
"""What `TrainingLoss` adds up over the rows of a part beside the loss, whatever the objective, in this order."""


class TrainingLoss(nn.Module):
    """The loss of a network by its objective, with derivative, guidance passes and teacher included.

    Args:
        net: the network that is trained.
        objective: `TrainConfig.objective`.
        null_label: of the network, or None for unlabelled data.
        precision: `trainer.precision`; with `bf16` the network runs under autocast, and times, points, tangents and
            loss stay in float32.
        teacher: the network of the target's passes without gradient; None: `net`.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: ObjectiveConfig,
        null_label: int | None,
        precision: str,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net, self.teacher = net, teacher
        self.objective, self._null_label, self._low = objective, null_label, precision == "bf16"
        self._examined: set[tuple[int, float | None]] = set()

    def diagnostics(self, split: Tensor | float) -> tuple[str, ...]:
        """Return the names of the sums, over rows with r < t, that follow `SUMS` where the batch has this split."""
        return choose_target(self.objective, split).diagnostics

    def weights_cast_once(self) -> AbstractContextManager[None]:
        """Cast the weights once for all forward and backward passes of the block, where they are cast at all.

        A compiled loss has no use for it: its graph casts each weight once as it is. Weights in shards are gathered for
        each pass, and cast there.
        """
        if not self._low or self._compiled_call_impl is not None or in_shards(self.net):
            return nullcontext()
        constants = () if self.teacher is None else self.teacher.parameters()
        return cast_once(next(self.net.parameters()).device, self.net.parameters(), constants)

    def forward(self, part: Microbatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the part's rows, and the sums named by `SUMS` and `diagnostics` (no gradient)."""
        kind, held = part.x.device.type, casts_are_held()
        with torch.autocast(kind, torch.bfloat16, cache_enabled=held) if self._low else nullcontext():
            result = meanflow_loss(
                self.net,
                part.x,
                part.noise,
                part.r,
                part.t,
                labels=part.labels,
                dropped=part.dropped,
                null_label=self._null_label,
                objective=self.objective,
                split=part.split,
                teacher=self.teacher,
                scales=part.scales,
                rows=part.spanning_rows,
                drops=part.dropped_count,
            )
        with torch.no_grad():
            error = result.squared_error
            sums = torch.stack(
                [
                    error.sum(),
                    error[part.spanning_rows :].sum(),
                    result.u.flatten(1).norm(dim=1).sum(),
                    result.target.flatten(1).norm(dim=1).sum(),
                    result.velocity.square().sum(),
                    result.weight.sum(),
                ]
            )
        return result.loss, torch.cat([sums, result.diagnostics.sum(0)])

    def examine(self, parts: Sequence[Microbatch]) -> None:
        """Have the derivative checked uncompiled: a compiled one cannot look at what it computes. Nothing is changed.

        Each graph is checked once: of a number of rows with r != t, and of a split that is a limit or not.

        Raises:
            DerivativeError: `objective.derivative` is not right for the network.
        """
        for part in parts:
            graph = part.spanning_rows, None if isinstance(part.split, Tensor) else part.split
            if graph in self._examined:
                continue
            self._examined.add(graph)
            with torch.no_grad(), one_draw(part.x.device):
                buffers = [(buffer, buffer.clone()) for buffer in self.net.buffers()]
                self.forward(part)
                for buffer, before in buffers:
                    buffer.copy_(before)
