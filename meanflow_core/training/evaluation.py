"""Judging samples by one process, or by several of which each judges its own share."""

from __future__ import annotations

from torch import Tensor, nn

from meanflow_core.metrics import Evaluator
from meanflow_core.sampling import Sampling


def judge(
    sampling: Sampling,
    evaluator: Evaluator,
    net: nn.Module,
    weights: dict[str, Tensor],
    nfe: int,
    scale: float | None,
) -> dict[str, float]:
    """Return the metrics of all samples, the same in every process.

    Where every metric can be had from sums over shares, a process computes features of its own share and only sums
    pass between processes; otherwise each gets all samples.

    Args:
        sampling: of the evaluation; each process of its world calls this.
        evaluator: of the evaluation.
        net: the network's structure.
        weights: its state dict to use.
        nfe: number of function evaluations.
        scale: of guidance, for a network that takes it as an input.

    Raises:
        FloatingPointError: a sample, a feature or a metric is not finite, in whichever process.
    """

    def total(tensor: Tensor) -> Tensor:
        return sampling.world.total(tensor.to(sampling.device)).cpu()

    shared = 1 < sampling.world.size <= sampling.count and evaluator.sums_suffice
    if shared:
        samples, labels = sampling.draw_share(net, weights, nfe, scale)
    else:
        samples, labels = sampling.draw(net, weights, nfe, scale), sampling.labels
    if total((~samples.isfinite()).any().double()):
        raise FloatingPointError("the samples are not finite")
    return evaluator.evaluate(samples, labels, total if shared else None)
