"""The split a -> 1 of the network's own path: u* = u(X, r, r) + (t - r) du/dr, X = z_t - (t - r) u (LSD, TVM)."""

from __future__ import annotations

import torch

from meanflow_core.derivative import predict
from meanflow_core.flow import per_row
from meanflow_core.objectives.target import Regression, SplitInput, constant_pass


class DerivativeAtR:
    """The derivative at the early end, tangent (0, 1, 0) of (z, r, t), as a constant: the semi-gradient form."""

    diagnostics = ("du_dr_norm",)
    needs_velocity = False

    def __call__(self, at: SplitInput) -> Regression:
        """Predict, with du/dr beside the pass, and ask for the velocity where the prediction lands."""
        z, r, t, labels = at.head
        u, du_dr = predict(
            at.net,
            at.z,
            at.r,
            at.t,
            at.labels,
            direction=torch.zeros_like(z),
            tangent="v10",
            method=at.config.derivative,
        )
        with torch.no_grad():
            gap = per_row(t - r, z)
            landed = z - gap * u[: at.rows].to(z.dtype)
            target = constant_pass(at.teacher, landed, r, r, labels) + gap * du_dr
            norm = du_dr.flatten(1).norm(dim=1)
        return Regression(u, target, derivative=du_dr, diagnostics=(norm,))
