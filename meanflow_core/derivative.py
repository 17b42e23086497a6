"""The network's prediction and its total derivative du/dt (Eq. 7-8), by one of three ways that agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_core.path import Network

TANGENTS = {"v01": (1.0, 0.0, 1.0), "v00": (1.0, 0.0, 0.0), "v10": (1.0, 1.0, 0.0), "v11": (1.0, 1.0, 1.0)}
"""Tangents of (z in units of v~, r, t). Only the first is the total derivative; the others are Table 1b's ablation."""


@dataclass(frozen=True)
class Query:
    """Where the derivative is wanted, and along what: the first m rows of a batch.

    `dz` is like z [m, ...]; `dr` and `dt` are numbers, the same for every row.
    """

    z: Tensor
    r: Tensor
    t: Tensor
    labels: Tensor | None
    dz: Tensor
    dr: float
    dt: float


def predict(
    net: Network,
    z: Tensor,
    r: Tensor,
    t: Tensor,
    labels: Tensor | None,
    *,
    direction: Tensor,
    tangent: str = "v01",
    method: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return u on all rows, with its graph, and du/dt on the first m rows, without one.

    Args:
        net: the network.
        z: points of the path [B, ...]. The m rows whose derivative is wanted come first.
        r: earlier times [B].
        t: later times [B].
        labels: int64 [B] or None.
        direction: the velocity v~ of the first m rows, [m, ...].
        tangent: a key of `TANGENTS`.
        method: `dual`, `jvp`, `finite_difference` or `auto`.
    """
    rows = len(direction)
    if rows == 0:
        return net(z, r, t, labels), direction
    with torch.no_grad():
        unit, dr, dt = TANGENTS[tangent]
        query = Query(
            z[:rows], r[:rows], t[:rows], labels[:rows] if labels is not None else None, unit * direction, dr, dt
        )
    u = net(z, r, t, labels)
    by = by_finite_difference if method == "finite_difference" else by_jvp
    with torch.no_grad():
        return u, by(net, query)


def by_jvp(net: Network, at: Query) -> Tensor:
    """Return the derivative by forward-mode differentiation of a second pass over the rows that need it."""

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return net(z, r, t, at.labels)

    tangents = (at.dz, torch.full_like(at.r, at.dr), torch.full_like(at.t, at.dt))
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no forward mode
        derivative: Tensor = torch.func.jvp(u, (at.z, at.r, at.t), tangents)[1]
    return derivative.to(at.z.dtype)


def by_finite_difference(net: Network, at: Query) -> Tensor:
    """Return the central difference (u(+h) - u(-h)) / 2h; its error is of order h^2 plus rounding / h."""
    step = torch.finfo(at.z.dtype).eps ** (1 / 3)

    def u(h: float) -> Tensor:
        return net(at.z + h * at.dz, at.r + h * at.dr, at.t + h * at.dt, at.labels)

    with torch.autocast(at.z.device.type, enabled=False):  # bfloat16 has too few digits to take differences of
        return (u(step) - u(-step)) / (2 * step)
