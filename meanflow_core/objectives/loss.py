"""The loss of one batch, whatever the objective: MeanFlow's Algorithm 1 (arXiv 2505.13447) and its family.

Rows with r = t are regressed on the velocity v~ itself, by every objective; what the others are regressed on is the
objective's `Target`. Guidance (Eq. 21), dropped labels and the weight (sec. 4.3) are shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meanflow_core.config import ObjectiveConfig, load_config
from meanflow_core.derivative import DerivativeError, rows_stand_alone
from meanflow_core.flow import (
    Network,
    guided_velocity,
    interpolate,
    is_exactly,
    null_condition,
    per_row,
    row_weight,
    with_scale,
)
from meanflow_core.objectives.choice import choose_target
from meanflow_core.objectives.derivative_at_t import DerivativeAtT
from meanflow_core.objectives.target import Regression, SplitInput, Target


@dataclass(frozen=True)
class MeanFlowLoss:
    """The loss and what it is made of. Only `loss` carries gradient. Rows are in the caller's order."""

    loss: Tensor
    """The mean of `weighted` over the batch."""
    weighted: Tensor
    """[B]: w a |e|^2, where a is the split of rows with r != t whose error is divided by it, else 1."""
    squared_error: Tensor
    """[B]: |e|^2 summed over a row's entries; e = (u - u*) / a, or u - u* where it is not divided."""
    u: Tensor
    """The prediction, like x."""
    target: Tensor
    """u*, like x; v~ where r = t."""
    velocity: Tensor
    """v~, like x: guided, save on the rows with r != t of an objective that does not use it there."""
    du_dt: Tensor
    """The derivative in the target, like x: du/dt, of `lsd` du/dr; 0 where r = t or the target has none."""
    weight: Tensor
    """w [B], a constant."""
    diagnostics: Tensor
    """What the target reports of each row, [B, len(Target.diagnostics)]; 0 where r = t."""


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
    objective: ObjectiveConfig | Mapping[str, Any],
    split: Tensor | float | None = None,
    teacher: Network | None = None,
    scales: Tensor | None = None,
    rows: int | None = None,
    drops: int | None = None,
) -> MeanFlowLoss:
    """Return the loss of one batch: w a |e|^2 with e = (u(z_t, r, t) - u*) / a, for MeanFlow as Eq. 9-11 and 21.

    Convention: t = 1 is noise, t = 0 is data, r <= t. Gradient flows through u alone: the target (velocity, derivative,
    other passes and guidance) and the weight are constants, so nothing is differentiated twice. All randomness is an
    argument, save the network's own dropout. Everything but the network itself is computed in the dtype of x.

    Args:
        net: called as net(z, r, t, labels).
        x: data [B, ...], float32 or float64.
        noise: standard normal, like x.
        r: earlier times [B].
        t: later times [B].
        labels: int64 [B], or None for unlabelled data.
        dropped: bool [B]: rows trained on the null label with the plain velocity. None: none.
        null_label: the label that stands for no class; needed where rows are dropped or guided.
        objective: `TrainConfig.objective`, or its keys: {"derivative": "jvp", "time.ratio": 0.5}.
        split: a of s = t - a (t - r), above 0 and below 1: [B], of which the rows with r != t are read, or a number for
            all of them, which may also be exactly 0 or 1. None: that of an objective whose a is constant.
        teacher: the network of the target's passes without gradient (an average of `net`). None: `net` itself.
        scales: w >= 1 of each row, [B], of an objective with guidance as an input. The network then gets labels [B, 2]:
            the class and w; dropped rows have w = 1.
        rows: the number of rows with r != t, where the caller knows it and they come first (as `sample_times`
            gives them): shapes are then static. None: they are found, in any order.
        drops: at least so many rows are dropped, where the caller knows, for the same purpose. None: counted.

    Raises:
        ValueError: if rows are dropped or guided without labels or null label, or the split is needed and not given.
        ValueError: if the times are not 0 <= r <= t <= 1, or `rows` does not fit them (not looked at on
            a GPU where `rows` is given, which would make it wait).
        DerivativeError: if `objective.derivative` is not right for this network, or it cannot be guided.
    """
    if not isinstance(objective, ObjectiveConfig):
        objective = load_config({"objective": objective}).objective
    if split is None:
        if objective.split.law != "constant":
            raise ValueError(f"the split of {objective.name!r} changes ({objective.split.law}): give `split`")
        split = objective.split.bounds[0]
    if objective.guidance.input and scales is None:
        raise ValueError("guidance as an input (objective.guidance.input) needs the scale of each row: `scales`")
    conditions = _with_scales(labels, scales, x)
    seen = _seen_labels(conditions, dropped, null_label)
    target = choose_target(objective, split)
    if not torch.compiler.is_compiling():
        _check_times(r, t, rows)
    if rows is None:
        span = r != t
        order = torch.argsort((~span).to(torch.int8), stable=True)
        if _in_order(order) or rows_stand_alone(net, x, r, t, seen, objective.derivative)[0]:
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
                split=split[order] if isinstance(split, Tensor) else split,
                teacher=teacher,
                scales=None if scales is None else scales[order],
                rows=int(span.sum()),
                drops=drops,
            )
            back = torch.argsort(order)
            return MeanFlowLoss(result.loss, *(value[back] for name, value in vars(result).items() if name != "loss"))
        if not isinstance(target, DerivativeAtT):
            raise DerivativeError(
                "the network holds something of each row (a condition?), so that rows cannot be put in another order: "
                "give the rows with r != t first, or conditions as `labels`"
            )
        rows = len(x)  # they stay where they are, and all are differentiated

    if objective.guidance.active and not torch.compiler.is_compiling():
        _check_guidance(rows_stand_alone(net, x, r, t, seen, objective.derivative)[1])
    point = interpolate(x, noise, t)
    labels = conditions
    # Rows whose target holds no v~ pay no guidance pass.
    first = 0 if target.needs_velocity else rows
    guided = guided_velocity(
        net,
        point.z[first:],
        t[first:],
        point.velocity[first:],
        labels=None if labels is None else labels[first:],
        dropped=None if dropped is None else dropped[first:],
        null_label=null_label,
        config=objective.guidance,
        spanning_rows=rows - first,
        dropped_count=None if drops is None else max(0, drops - first),
    )
    leading = guided.leading if target.needs_velocity else point.velocity[:rows]
    made = _made(
        target,
        SplitInput(
            net=net,
            teacher=net if teacher is None else teacher,
            z=point.z,
            r=r,
            t=t,
            labels=seen,
            velocity=leading,
            split=split[:rows] if isinstance(split, Tensor) else split,
            config=objective,
            others=guided.rest,
        ),
    )
    u = made.u.to(x.dtype)
    with torch.no_grad():
        rest = guided.rest(u[rows:])  # r = t: the target is the velocity itself; du/dt is never multiplied by 0
        u_star = torch.cat([made.target, rest])
        velocity = torch.cat([leading, rest])
        du_dt = _padded(made.derivative, x)
        own = [_padded(values, t) for values in made.diagnostics]
        diagnostics = torch.stack(own, dim=1).to(x.dtype) if own else x.new_zeros(len(x), 0)
    squared_error = (u - u_star).square().flatten(1).sum(1)
    share = None
    if made.divisor is not None:
        share = torch.cat([made.divisor.to(x.dtype), torch.ones_like(t[rows:], dtype=x.dtype)])
        squared_error = squared_error / share.square()
    if share is not None and objective.weight.of == "difference":
        weight = share.square() * row_weight(share.square() * squared_error, objective.weight)
    else:
        weight = row_weight(squared_error, objective.weight)
    if not is_exactly(objective.gap_weight, 0.0):
        weight = weight * gap_weight(t - r, objective.gap_weight)
    weighted = weight * squared_error if share is None else weight * share * squared_error
    return MeanFlowLoss(
        weighted.mean(),
        weighted.detach(),
        squared_error.detach(),
        u.detach(),
        u_star,
        velocity,
        du_dt,
        weight,
        diagnostics,
    )


def _made(target: Target, at: SplitInput) -> Regression:
    """Let the target be made; without rows that need one there is the prediction alone."""
    if at.rows == 0:
        none = tuple(at.t.new_zeros(0) for _ in target.diagnostics)
        return Regression(at.net(at.z, at.r, at.t, at.labels), at.velocity, diagnostics=none)
    return target(at)


def gap_weight(gap: Tensor, strength: float) -> Tensor:
    """Return 1 / ((1 + g h) sqrt(1 + g h^2)) of each row: 1 where r = t, less for long gaps (TEMF, with g = 1)."""
    return 1 / ((1 + strength * gap) * torch.sqrt(1 + strength * gap.square()))


def _seen_labels(labels: Tensor | None, dropped: Tensor | None, null_label: int | None) -> Tensor | None:
    """The labels the trained network sees: the null label on dropped rows."""
    if dropped is None:
        return labels
    if labels is None or null_label is None:
        raise ValueError("`dropped` needs `labels` and `null_label`")
    return torch.where(per_row(dropped, labels), null_condition(labels, null_label), labels)


def _padded(values: Tensor | None, like: Tensor) -> Tensor:
    """Values of the first rows, then zeros, [B, ...]."""
    if values is None:
        return torch.zeros_like(like)
    return torch.cat([values, values.new_zeros(len(like) - len(values), *values.shape[1:])])


def _check_times(r: Tensor, t: Tensor, rows: int | None) -> None:
    if rows is not None and r.device.type != "cpu":
        return
    if not bool(((r >= 0) & (r <= t) & (t <= 1)).all()):
        wrong = int((~((r >= 0) & (r <= t) & (t <= 1))).nonzero()[0])
        raise ValueError(
            f"the times must satisfy 0 <= r <= t <= 1 (t = 1 is noise), but row {wrong} has r = {float(r[wrong]):g}, "
            f"t = {float(t[wrong]):g}"
        )
    if rows is not None and not (0 <= rows <= len(r) and bool((r[rows:] == t[rows:]).all())):
        raise ValueError(
            f"`rows` = {rows}, but the rows with r != t must be the first "
            f"{rows} of the {len(r)}; leave it out to have them found"
        )


def _with_scales(labels: Tensor | None, scales: Tensor | None, x: Tensor) -> Tensor | None:
    """What the network is told of each row: its label, and its guidance scale where that is an input."""
    if scales is None:
        return labels
    if labels is None:
        raise ValueError("`scales` needs `labels`")
    return with_scale(labels, scales.to(x.dtype))


def _in_order(order: Tensor) -> bool:
    return bool((order[1:] > order[:-1]).all())


def _check_guidance(separable: bool) -> None:
    if not separable:
        raise DerivativeError(
            "guidance asks the network about some of the batch's rows, and it answers otherwise than with all of them "
            "(or not at all): does it hold a condition of each row? Give conditions as `labels`, so that they can be "
            "left out"
        )
