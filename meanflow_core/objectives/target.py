"""What an objective says of the rows with r < t: the interface of every target, and the passes that targets share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from meanflow_core.config import ObjectiveConfig
from meanflow_core.flow import Network, evaluating, is_exactly
from meanflow_core.half_precision import forget_casts


@dataclass(frozen=True)
class SplitInput:
    """A batch whose first m rows have r < t, as a target sees it. B rows in all; times are [B]."""

    net: Network
    """The network that is trained."""
    teacher: Network
    """The network of passes without gradient: an average of `net`, or `net` itself."""
    z: Tensor
    """Points of the path [B, ...]."""
    r: Tensor
    t: Tensor
    labels: Tensor | None
    """int64 [B] that the network sees: the null label on dropped rows."""
    velocity: Tensor
    """The velocity v~ of the first m rows, [m, ...]: guided where the target asks for it (`needs_velocity`)."""
    split: Tensor | float
    """a of s = t - a (t - r): [m], or exactly 0.0 or 1.0."""
    config: ObjectiveConfig
    others: Callable[[Tensor], Tensor] | None = None
    """The velocity of the other rows, given the prediction there; it matters where rows influence each other."""

    @property
    def rows(self) -> int:
        """The number m of rows with r < t."""
        return len(self.velocity)

    @property
    def head(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """z, r, t and labels of the first m rows."""
        m = self.rows
        return self.z[:m], self.r[:m], self.t[:m], None if self.labels is None else self.labels[:m]


@dataclass(frozen=True)
class Regression:
    """The prediction of every row, and what it is regressed on where r < t."""

    u: Tensor
    """[B, ...], with its graph."""
    target: Tensor
    """u* of the first m rows, without graph."""
    divisor: Tensor | None = None
    """a [m] where the error is (u - u*) / a; None: it is u - u*."""
    derivative: Tensor | None = None
    """The derivative of u in the target, [m, ...], where there is one."""
    diagnostics: tuple[Tensor, ...] = ()
    """[m] each, in the order of `Target.diagnostics`."""


class Target(Protocol):
    """How u* is made. It knows nothing of the rows with r = t, of weights or of other targets."""

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """Names of what it reports of each row: their means are logged as `train/<name>`."""
        ...

    @property
    def needs_velocity(self) -> bool:
        """Whether u* contains v~; where not, no guidance pass is made for the rows with r < t."""
        ...

    def __call__(self, at: SplitInput) -> Regression:
        """Predict, and make u*."""
        ...


def constant_pass(net: Network, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """Return u(z, r, t) in the dtype of z: without gradient, in evaluation mode."""
    with evaluating(net):
        return without_gradient(net, z, r, t, labels)


def without_gradient(net: Network, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """Return u(z, r, t) in the dtype of z, in the mode the network is in."""
    with torch.no_grad():
        u = net(z, r, t, labels).to(z.dtype)
    forget_casts(z.device)
    return u


def mixed_direction(at: SplitInput) -> Tensor:
    """Return d = (1 - b) v~ + b u(z_t, t, t) of the first m rows, b = `objective.direction`. b = 0 costs no pass."""
    share = at.config.direction
    assert share is not None
    if is_exactly(share, 0.0):
        return at.velocity
    z, _, t, labels = at.head
    own = constant_pass(at.teacher, z, t, t, labels)
    if is_exactly(share, 1.0):
        return own
    return torch.lerp(at.velocity, own, share.to(own.dtype) if isinstance(share, Tensor) else share)
