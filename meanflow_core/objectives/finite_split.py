"""A finite split s = t - a (t - r): u* = a c + (1 - a) u(z_s, r, s), z_s = z_t - a (t - r) d.

The leg c stands for u(z_t, s, t). It is the data's (alpha-Flow, SoFlow, consistency training) or the network's own
(Shortcut, SplitMeanFlow).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
        """Return u of all rows and u*. Both ends of the quotient see the same dropout: their difference is divided."""
        if not isinstance(at.split, Tensor) and at.split == 1:  # the split is at r: nothing is left of the second leg
            return at.net(at.z, at.r, at.t, at.labels), at.velocity
        z, _, t, _ = at.head
        before = _generators(z.device)
        u = at.net(at.z, at.r, at.t, at.labels)
        drawn = None if all(map(torch.equal, before, _generators(z.device))) else before
        step = a * (t - at.r[: at.rows])
        z_s, s = z - per_row(step, z) * mixed_direction(at), t - step
        if torch.is_autocast_enabled(z.device.type):
            # A difference of bfloat16 numbers, divided by a, would be rounding alone.
            with torch.autocast(z.device.type, enabled=False):
                difference = _second_pass(at, z, t, drawn) - _second_pass(at, z_s, s, drawn)
                arrived = u[: at.rows].detach().to(z.dtype) - difference
        else:
            arrived = _second_pass(at, z_s, s, drawn)
        with torch.no_grad():
            share = per_row(a, z)
            return u, clipped(share * at.velocity + (1 - share) * arrived, at.config.clip)

    def _own_legs(self, at: SplitInput, a: Tensor) -> Tensor:
        """Return u*, made by the teacher alone."""
        z, r, t, labels = at.head
        step = a * (t - r)
        s = t - step
        first = constant_pass(at.teacher, z, s, t, labels)
        second = constant_pass(at.teacher, z - per_row(step, z) * first, r, s, labels)
        share = per_row(a, z)
        return clipped(share * first + (1 - share) * second, at.config.clip)


Generators = tuple[Tensor, ...]


def _generators(device: torch.device) -> Generators:
    """The states of torch's generators; none under torch.compile, where nothing can be drawn twice."""
    if torch.compiler.is_compiling():
        return ()
    on_device = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *on_device)


def _second_pass(at: SplitInput, z: Tensor, t: Tensor, drawn: Generators | None) -> Tensor:
    """Return u at other z and t of the first m rows, with the random numbers of the first pass where it drew any.

    A pass over fewer rows would draw fewer: then the whole batch goes through the network again.
    """
    m = at.rows
    if drawn is None:
        _, r, _, labels = at.head
        return without_gradient(at.teacher, z, r, t, labels)
    torch.set_rng_state(drawn[0])
    for state in drawn[1:]:
        torch.cuda.set_rng_state(state, z.device)
    return without_gradient(at.teacher, torch.cat([z, at.z[m:]]), at.r, torch.cat([t, at.t[m:]]), at.labels)[:m]


def clipped(target: Tensor, bound: float | None) -> Tensor:
    """Return u* cut to [-bound, bound], or as it is."""
    return target if bound is None else target.clamp(-bound, bound)
