"""The whole loss of a part of a batch as one module: what DDP wraps and torch.compile compiles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meanflow_core.config import ObjectiveConfig
from meanflow_core.objectives import meanflow_loss
from meanflow_core.training.batches import Microbatch

SUMS = ("squared_error", "velocity_error", "du_dt_norm", "u_norm", "target_norm", "velocity_power", "weight")
"""What `TrainingLoss` adds up over the rows of a part beside the loss, in this order."""


class TrainingLoss(nn.Module):
    """The MeanFlow loss of a network, derivative and guidance passes included.

    Args:
        net: the network that is trained.
        objective: `TrainConfig.objective`.
        null_label: of the network, or None for unlabelled data.
        precision: `fp32`, or `bf16`: the network under autocast; times, points, tangents and loss stay in float32.
    """

    def __init__(self, net: nn.Module, objective: ObjectiveConfig, null_label: int | None, precision: str) -> None:
        super().__init__()
        self.net = net
        self._objective, self._null_label, self._low = objective, null_label, precision == "bf16"

    def forward(self, part: Microbatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the part's rows, and the sums named by `SUMS` (float32 [len(SUMS)], no gradient)."""
        # No cache: a weight cast in a pass without gradient would cut the training pass off from that weight.
        with torch.autocast(part.x.device.type, torch.bfloat16, enabled=self._low, cache_enabled=False):
            result = meanflow_loss(
                self.net,
                part.x,
                part.noise,
                part.r,
                part.t,
                labels=part.labels,
                dropped=part.dropped,
                null_label=self._null_label,
                objective=self._objective,
                rows=part.rows,
                drops=part.drops,
            )
        with torch.no_grad():
            error, m = result.squared_error, part.rows
            sums = torch.stack(
                [
                    error.sum(),
                    error[m:].sum(),
                    result.du_dt[:m].flatten(1).norm(dim=1).sum(),
                    result.u.flatten(1).norm(dim=1).sum(),
                    result.target.flatten(1).norm(dim=1).sum(),
                    result.velocity.square().sum(),
                    result.weight.sum(),
                ]
            )
        return result.loss, sums
