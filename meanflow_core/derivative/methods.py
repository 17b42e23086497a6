"""The network's prediction and its total derivative du/dt (Eq. 7-8), by one of three ways that agree."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

import meanflow_core.derivative.rules  # noqa: F401 (registers the rules of layers)
from meanflow_core.derivative.dual import RowDual, UnsupportedOperation
from meanflow_core.flow import Network, evaluating

__all__ = ["TANGENTS", "UnsupportedOperation", "predict"]

TANGENTS = {"v01": (1.0, 0.0, 1.0), "v00": (1.0, 0.0, 0.0), "v10": (1.0, 1.0, 0.0), "v11": (1.0, 1.0, 1.0)}
"""Tangents of (z in units of v~, r, t). Only the first is the total derivative; the others are Table 1b's ablation."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """The batch, and where and along what the derivative is wanted: the first m rows.

    `direction` is the tangent of z there, [m, ...]; those of r and t are numbers, the same for every row.
    """

    z: Tensor
    r: Tensor
    t: Tensor
    labels: Tensor | None
    direction: Tensor
    dr: float
    dt: float

    @property
    def rows(self) -> int:
        """The number m of rows whose derivative is wanted."""
        return len(self.direction)

    def head(self) -> Query:
        """Return the query without the rows that need no derivative."""
        m = self.rows
        labels = None if self.labels is None else self.labels[:m]
        return Query(self.z[:m], self.r[:m], self.t[:m], labels, self.direction, self.dr, self.dt)


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
        method: `dual` (beside the one forward pass), `jvp` (forward-mode differentiation of a second pass over the m
            rows), `finite_difference` (central, two more passes over them), or `auto`: `dual` where the network's
            operations have rules, else `jvp`. Under torch.compile, `auto` is `dual`.

    Raises:
        UnsupportedOperation: by `dual`, if the network does what it has no rule for.
    """
    if len(direction) == 0:
        return net(z, r, t, labels), direction
    unit, dr, dt = TANGENTS[tangent]
    query = Query(z, r, t, labels, direction if unit == 1 else unit * direction, dr, dt)
    if method == "auto":
        method = "dual" if torch.compiler.is_compiling() or _carries_dual(net, query) else "jvp"
    u, du_dt = {"dual": by_dual, "jvp": by_jvp, "finite_difference": by_finite_difference}[method](net, query)
    return u, du_dt.to(z.dtype)


def by_dual(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Carry the tangent of the rows that need it beside the differentiable pass over all rows."""
    m = at.rows
    z = RowDual(at.z, at.direction)
    r: Any = RowDual(at.r, torch.full_like(at.r[:m], at.dr)) if at.dr else at.r
    t: Any = RowDual(at.t, torch.full_like(at.t[:m], at.dt)) if at.dt else at.t
    u: Any = net(z, r, t, at.labels)  # type: ignore[arg-type]
    if isinstance(u, RowDual):
        return u.primal, u.tangent
    return u, torch.zeros_like(at.direction)


def by_jvp(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Differentiate a second pass, over the rows that need it, in forward mode."""
    with DropoutMasks() as masks:
        u = net(at.z, at.r, at.t, at.labels)
        head = at.head()

        def again(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
            return net(z, r, t, head.labels)

        tangents = (head.direction, torch.full_like(head.r, at.dr), torch.full_like(head.t, at.dt))
        with torch.no_grad(), masks.replayed(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            derivative: Tensor = torch.func.jvp(again, (head.z, head.r, head.t), tangents)[1]
    return u, derivative


def by_finite_difference(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Take the central difference (u(+h) - u(-h)) / 2h; its error is of order h^2 plus rounding / h.

    r and t leave [0, 1] by h at most. The two passes are float32 whatever the autocast, since bfloat16 has too few
    digits to take differences of.
    """
    step = torch.finfo(at.z.dtype).eps ** (1 / 3)
    with DropoutMasks() as masks:
        u = net(at.z, at.r, at.t, at.labels)
        head = at.head()

        def moved(h: float) -> Tensor:
            with masks.replayed():
                return net(head.z + h * at.direction, head.r + h * at.dr, head.t + h * at.dt, head.labels)

        with torch.no_grad(), torch.autocast(at.z.device.type, enabled=False):
            return u, (moved(step) - moved(-step)) / (2 * step)


class DropoutMasks(TorchFunctionMode):
    """Makes the dropout masks of a first pass over a batch hold in later passes over its leading rows.

    Equal seeds would not do: a pass over fewer rows draws fewer numbers for each mask.
    """

    def __init__(self) -> None:
        super().__init__()
        self._masks: list[Tensor] = []
        self._next: Iterator[Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record or replay dropout; let everything else through."""
        kwargs = kwargs or {}
        if func is not torch.nn.functional.dropout:
            return func(*args, **kwargs)
        return self._dropout(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        if self._next is None:
            self._masks.append(torch.empty_like(x).bernoulli_(1 - p).div_(1 - p))
            return x * self._masks[-1]
        return x * next(self._next)[: len(x)]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Use the recorded masks, in their order."""
        self._next = iter(self._masks)
        try:
            yield
        finally:
            self._next = None


_carrying: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _carries_dual(net: Network, at: Query) -> bool:
    """Whether the network's operations all have rules: tried once for each network, on one row."""
    if net not in _carrying:
        labels = None if at.labels is None else at.labels[:1]
        one = Query(at.z[:1], at.r[:1], at.t[:1], labels, at.direction[:1], at.dr, at.dt)
        try:
            with torch.no_grad(), evaluating(net):
                by_dual(net, one)
            _carrying[net] = True
        except UnsupportedOperation as error:
            _log.warning("du/dt by torch.func.jvp, at a higher price: %s", error)
            _carrying[net] = False
    return _carrying[net]
