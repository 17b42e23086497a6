"""What a network costs: floating-point operations, counted as it runs on the meta device (shapes alone, no numbers)."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from meanflow_core.config import ModelConfig
from meanflow_core.flow import ConditionSpec
from meanflow_core.nets.build import build_net


def forward_flops(
    config: ModelConfig,
    shape: tuple[int, ...],
    num_classes: int | None = None,
    *,
    condition: ConditionSpec | None = None,
) -> int:
    """Return the floating-point operations of one forward pass of one row: those of matrix products and convolutions.

    Args:
        config: which network, and its sizes.
        shape: of one row of z, without the batch.
        num_classes: number of labels, or None for data without labels.
        condition: of the data, if they have conditions.

    Raises:
        ConfigError: the network does not fit data of this shape.
    """
    with torch.device("meta"):
        net = build_net(config, shape, num_classes, condition=condition)
        z, time = torch.empty(1, *shape), torch.empty(1)
        labels = None if num_classes is None else torch.empty(1, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(z, time, time, labels)
    return int(counter.get_total_flops())
