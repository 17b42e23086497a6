"""The split a -> 0: u* = v~ - (t - r) du/dt along the direction d (MeanFlow's Eq. 9-11; iMF with d = u(z, t, t))."""

from __future__ import annotations

import torch

from meanflow_core.derivative import predict
from meanflow_core.flow import per_row
from meanflow_core.objectives.target import Regression, SplitInput, mixed_direction


class DerivativeAtT:
    """The derivative at the late end, tangent (d, 0, 1) of (z, r, t)."""

    diagnostics = ("du_dt_norm",)
    needs_velocity = True

    def __call__(self, at: SplitInput) -> Regression:
        """Predict, with du/dt beside the pass."""
        u, du_dt = predict(
            at.net,
            at.z,
            at.r,
            at.t,
            at.labels,
            direction=mixed_direction(at),
            tangent=at.config.tangent,
            method=at.config.derivative,
            others=at.others,
        )
        with torch.no_grad():
            _, r, t, _ = at.head
            if at.rows == len(at.z):  # rows with r = t may be among them, and have no use for a derivative
                du_dt = torch.where(per_row(t == r, at.z), 0, du_dt)
            target = at.velocity - per_row(t - r, at.z) * du_dt
            norm = du_dt.flatten(1).norm(dim=1)
        return Regression(u, target, derivative=du_dt, diagnostics=(norm,))
