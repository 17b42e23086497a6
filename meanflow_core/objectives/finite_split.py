"""A finite split s = t - a (t - r): u* = a c + (1 - a) u(z_s, r, s), z_s = z_t - a (t - r) d.

The leg c stands for u(z_t, s, t). It is the data's (alpha-Flow, SoFlow, consistency training) or the network's own
(Shortcut, SplitMeanFlow).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_core.derivative import DropoutMasks
from meanflow_core.flow import per_row
from meanflow_core.objectives.target import Regression, SplitInput, constant_pass, mixed_direction, without_gradient


@dataclass(frozen=True)
class FiniteSplit:
    """Two legs, of which the second is always the network's.

    Args:
        own: whether the first one is the network's too. The error is u - u* then, else (u - u*) / a, which tends to
            MeanFlow's as a -> 0.
    """

    own: bool
    diagnostics = ("split",)

    @property
    def needs_velocity(self) -> bool:
        """Whether the first leg is the data's."""
        return not self.own

    def __call__(self, at: SplitInput) -> Regression:
        """Predict, and follow the legs."""
        a = at.split if isinstance(at.split, Tensor) else torch.full_like(at.t[: at.rows], at.split)
        if self.own:
            u = at.net(at.z, at.r, at.t, at.labels)
            return Regression(u, self._own_legs(at, a), diagnostics=(a,))
        u, target = self._data_leg(at, a)
        return Regression(u, target, divisor=a, diagnostics=(a,))

    def _data_leg(self, at: SplitInput, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return u of all rows and u*. Both ends of the quotient see the same dropout: it is divided by a."""
        if not isinstance(at.split, Tensor) and at.split == 1:  # the split is at r: nothing is left of the second leg
            return at.net(at.z, at.r, at.t, at.labels), at.velocity
        z, r, t, labels = at.head
        masks = nullcontext() if torch.compiler.is_compiling() else DropoutMasks()
        with masks as recorded:
            u = at.net(at.z, at.r, at.t, at.labels)
            direction = mixed_direction(at)
            step = a * (t - r)

            def again(z: Tensor, t: Tensor) -> Tensor:
                with nullcontext() if recorded is None else recorded.replayed():
                    return without_gradient(at.teacher, z, r, t, labels)

            low = torch.is_autocast_enabled(z.device.type)
            with torch.autocast(z.device.type, enabled=False) if low else nullcontext():
                arrived = again(z - per_row(step, z) * direction, t - step)
                if low:  # a difference of bfloat16 numbers, divided by a, is rounding alone: take it in float32
                    arrived = u[: at.rows].detach().to(z.dtype) - (again(z, t) - arrived)
        with torch.no_grad():
            share = per_row(a, z)
            return u, share * at.velocity + (1 - share) * arrived

    def _own_legs(self, at: SplitInput, a: Tensor) -> Tensor:
        """Return u*, made by the teacher alone."""
        z, r, t, labels = at.head
        step = a * (t - r)
        s = t - step
        first = constant_pass(at.teacher, z, s, t, labels)
        second = constant_pass(at.teacher, z - per_row(step, z) * first, r, s, labels)
        share = per_row(a, z)
        return share * first + (1 - share) * second
