"""The MeanFlow loss: Algorithm 1 of arXiv 2505.13447 with the guidance of Eq. 21 and the weight of sec. 4.3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_core.config import ObjectiveConfig
from meanflow_core.derivative import predict
from meanflow_core.flow import Network, guided_velocity, interpolate, per_row, row_weight


@dataclass(frozen=True)
class MeanFlowLoss:
    """The loss and what it is made of. Only `loss` carries gradient.

    `loss` is the mean of `weighted` over the batch. `weighted`, `squared_error` (summed over a row's entries) and
    `weight` (their ratio) are [B]; `u`, `target`, `velocity` (the guided v~) and `du_dt` (0 where r = t) are like x.
    Rows are in the caller's order.
    """

    loss: Tensor
    weighted: Tensor
    squared_error: Tensor
    u: Tensor
    target: Tensor
    velocity: Tensor
    du_dt: Tensor
    weight: Tensor


def meanflow_loss(
    net: Network,
    x: Tensor,
    noise: Tensor,
    r: Tensor,
    t: Tensor,
    *,
    labels: Tensor | None = None,
    dropped: Tensor | None = None,
    null_label: int | None = None,
    objective: ObjectiveConfig,
    rows: int | None = None,
    drops: int | None = None,
) -> MeanFlowLoss:
    """Return the loss of one batch: w |u(z_t, r, t) - sg(v~ - (t - r) du/dt)|^2 (Eq. 9-11, 21).

    Convention: t = 1 is noise, t = 0 is data, r <= t. Gradient flows through u alone: the target (velocity, derivative
    and guidance) and the weight are constants, so nothing is differentiated twice. All randomness is an argument,
    save the network's own dropout. Everything but the network itself is computed in the dtype of x.

    Args:
        net: called as net(z, r, t, labels).
        x: data [B, ...], float32 or float64.
        noise: standard normal, like x.
        r: earlier times [B].
        t: later times [B].
        labels: int64 [B], or None for unlabelled data.
        dropped: bool [B]: rows trained on the null label with the plain velocity. None: none.
        null_label: the label that stands for no class; needed where rows are dropped or guided.
        objective: `TrainConfig.objective`.
        rows: the number m of rows with r != t, where the caller knows it and they come first (as `sample_times`
            gives them): shapes are then static. None: they are found, in any order.
        drops: at least so many rows are dropped, where the caller knows, for the same purpose. None: counted.

    Raises:
        ValueError: if rows are dropped or guided without labels or null label.
        UnsupportedOperation: if `objective.derivative` is `dual` and the network does what that cannot carry.
    """
    if rows is None:
        span = r != t
        order = torch.argsort((~span).to(torch.int8), stable=True)
        result = meanflow_loss(
            net,
            x[order],
            noise[order],
            r[order],
            t[order],
            labels=None if labels is None else labels[order],
            dropped=None if dropped is None else dropped[order],
            null_label=null_label,
            objective=objective,
            rows=int(span.sum()),
            drops=drops,
        )
        back = torch.argsort(order)
        return MeanFlowLoss(result.loss, *(value[back] for name, value in vars(result).items() if name != "loss"))

    point = interpolate(x, noise, t)
    guided = guided_velocity(
        net,
        point.z,
        t,
        point.velocity,
        labels=labels,
        dropped=dropped,
        null_label=null_label,
        config=objective.guidance,
        rows=rows,
        drops=drops,
    )
    u, du_dt = predict(
        net,
        point.z,
        r,
        t,
        _seen_labels(labels, dropped, null_label),
        direction=guided.leading,
        tangent=objective.tangent,
        method=objective.derivative,
    )
    u = u.to(x.dtype)
    with torch.no_grad():
        rest = guided.rest(u[rows:])  # r = t: the target is the velocity itself; du/dt is never multiplied by 0
        span = per_row(t[:rows] - r[:rows], x)
        target = torch.cat([guided.leading - span * du_dt, rest])
        velocity = torch.cat([guided.leading, rest])
        du_dt = torch.cat([du_dt, torch.zeros_like(rest)])
    squared_error = (u - target).square().flatten(1).sum(1)
    weight = row_weight(squared_error, objective.weight)
    weighted = weight * squared_error
    return MeanFlowLoss(
        weighted.mean(), weighted.detach(), squared_error.detach(), u.detach(), target, velocity, du_dt, weight
    )


def _seen_labels(labels: Tensor | None, dropped: Tensor | None, null_label: int | None) -> Tensor | None:
    """The labels the trained network sees: the null label on dropped rows."""
    if dropped is None:
        return labels
    if labels is None or null_label is None:
        raise ValueError("`dropped` needs `labels` and `null_label`")
    return torch.where(dropped, null_label, labels)
