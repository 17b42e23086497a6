"""Judging samples by one process, or by several of which each judges its own share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meanflow_core.distributed import World
from meanflow_core.metrics import Evaluator
from meanflow_core.sampling import Sampling


def judge(
    sampling: Sampling,
    evaluator: Evaluator,
    world: World,
    device: torch.device,
    net: nn.Module,
    weights: dict[str, Tensor],
    nfe: int,
    scale: float | None,
) -> dict[str, float] | None:
    """Return the metrics of all samples, the same in every process; None where a sample is not finite.

    Where every metric can be had from sums over shares, a process computes features of its own share and only sums
    pass between processes; otherwise each gets all samples.

    Args:
        sampling: of the evaluation.
        evaluator: of the evaluation.
        world: the processes that share the work; each calls this.
        device: where tensors pass between processes.
        net: the network's structure.
        weights: its state dict to use.
        nfe: number of function evaluations.
        scale: of guidance, for a network that takes it as an input.
    """

    def total(tensor: Tensor) -> Tensor:
        return world.total(tensor.to(device)).cpu()

    shared = world.size > 1 and sampling.count >= world.size and evaluator.sums_suffice
    if shared:
        samples, labels = sampling.draw_share(net, weights, nfe, scale)
    else:
        samples, labels = sampling.draw(net, weights, nfe, scale), sampling.labels
    if total((~samples.isfinite()).any().double()):
        return None
    return evaluator.evaluate(samples, labels, total if shared else None)
