"""Guidance built into the training target (secs. 4.2 and B.1), so that sampling costs one evaluation a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meanflow_core.config import GuidanceConfig
from meanflow_core.distributed import in_shards
from meanflow_core.flow.condition import null_condition
from meanflow_core.flow.path import Network, is_exactly, per_row
from meanflow_core.half_precision import forget_casts
from meanflow_core.rng import one_draw


@contextmanager
def evaluating(net: object) -> Iterator[None]:
    """Run the network in evaluation mode (no dropout) and give every part back the mode it had."""
    training = [module for module in net.modules() if module.training] if isinstance(net, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class GuidedVelocity:
    """The guided velocity v~ of Eq. 21, known in two parts.

    `leading` is v~ on the first m rows (those with r != t), complete. On the rest one term may be missing: there
    u(z, t, t | c) is the training network's own prediction, which is made later; `rest` adds it.
    """

    leading: Tensor
    _rest: Tensor
    _rest_kappa: Tensor | None

    def rest(self, prediction: Tensor) -> Tensor:
        """Return v~ on the rows with r = t, given the prediction there (used as a constant)."""
        if self._rest_kappa is None:
            return self._rest
        return self._rest + self._rest_kappa * prediction.detach()


def guided_velocity(
    net: Network,
    z: Tensor,
    t: Tensor,
    velocity: Tensor,
    *,
    labels: Tensor | None,
    dropped: Tensor | None,
    null_label: int | None,
    config: GuidanceConfig,
    spanning_rows: int,
    dropped_count: int | None = None,
) -> GuidedVelocity:
    """Return v~ = omega v + kappa u(z, t, t | c) + (1 - omega - kappa) u(z, t, t | null), Eq. 21, without gradient.

    Rows that are class-dropped, and rows with t outside [start, end], keep the plain velocity. omega = 1 with kappa = 0
    returns the plain velocity itself. Otherwise there is one further pass, without gradient and in evaluation mode: the
    null label for the guided rows, and the true label for those of them with r != t. On the rows with r = t,
    u(z, t, t | c) is what the training pass predicts anyway, dropout included, so it is not computed twice. A term with
    coefficient 0 is not computed. The pass leaves the random generators as it found them.

    Args:
        net: called as net(z, t, t, labels).
        z: points of the path [B, ...]; the first `spanning_rows` rows are those with r != t.
        t: times [B].
        velocity: the conditional velocity, like z.
        labels: int64 [B]: the true ones, before dropping; [B, 2] with the scale w of each row where guidance is an
            input: then omega = 1 and kappa = 1 - 1/w.
        dropped: bool [B], or None: no row is dropped.
        null_label: the label that stands for no class.
        config: `objective.guidance`.
        spanning_rows: how many rows have r != t.
        dropped_count: at least so many rows are dropped, where the caller knows (static shapes); None: counted.

    Raises:
        ValueError: if guidance is asked for without labels or null label.
    """
    if not config.active:
        return GuidedVelocity(velocity[:spanning_rows], velocity[spanning_rows:], None)
    if labels is None or null_label is None:
        raise ValueError("guidance (objective.guidance.omega, kappa, scale) needs class labels and a null label")
    omega: Tensor | float = config.effective_omega
    kappa: Tensor | float = config.kappa
    if config.input:
        if labels.dim() != 2:
            raise ValueError("guidance as an input (objective.guidance.input) needs the scale of each row: `scales`")
        omega, kappa = 1.0, per_row(1 - 1 / labels[:, 1].to(velocity.dtype), velocity)
    null = 1.0 - omega - kappa
    asks_null = config.input or not is_exactly(null, 0.0)
    asks_label = config.input or not is_exactly(kappa, 0.0)
    kept = torch.ones_like(t, dtype=torch.bool) if dropped is None else ~dropped
    guided = kept & (t >= config.start) & (t <= config.end)
    at_null = torch.zeros_like(velocity)
    at_label = torch.zeros_like(velocity[:spanning_rows])

    everyone = in_shards(net)
    of_null = _rows_asked(guided, dropped, dropped_count, everyone) if asks_null else None
    of_label = _rows_asked(guided[:spanning_rows], None, None, everyone) if asks_label else None
    asked: list[tuple[Tensor, Tensor, Tensor]] = []
    if of_null is not None:
        asked.append((z[of_null], t[of_null], null_condition(labels[of_null], null_label)))
    if of_label is not None:
        asked.append((z[of_label], t[of_label], labels[of_label]))
    points, times, classes = (torch.cat(parts) for parts in zip(*asked, strict=True))
    compiling = torch.compiler.is_compiling()
    with torch.no_grad(), evaluating(net), nullcontext() if compiling else one_draw(z.device):
        u = net(points, times, times, classes).to(velocity.dtype) if len(points) else velocity[:0]
    forget_casts(z.device)
    if of_null is not None:
        at_null = at_null.index_copy(0, of_null, u[: len(of_null)])
    if of_label is not None:
        at_label = at_label.index_copy(0, of_label, u[len(u) - len(of_label) :])

    own = per_row(guided, velocity)
    mixed = omega * velocity + null * at_null
    first, last = kappa, kappa
    if isinstance(kappa, Tensor) and kappa.dim():
        first, last = kappa[:spanning_rows], kappa[spanning_rows:]
    lead = torch.where(own[:spanning_rows], mixed[:spanning_rows] + first * at_label, velocity[:spanning_rows])
    rest = torch.where(own[spanning_rows:], mixed[spanning_rows:], velocity[spanning_rows:])
    return GuidedVelocity(lead, rest, own[spanning_rows:].to(velocity.dtype) * last if asks_label else None)


def _rows_asked(guided: Tensor, dropped: Tensor | None, dropped_count: int | None, everyone: bool) -> Tensor:
    """Indices of rows that a guidance pass is made for: every guided one, and no other where that can be known.

    On a CPU the values are looked at. A GPU would have to be waited for, and a compiled graph wants static shapes:
    there the rows left out are the dropped ones, of which only the number is needed. `everyone`: none is left out, so
    that every process makes the pass.
    """
    if everyone:
        return torch.arange(len(guided), device=guided.device)
    if guided.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.nonzero(guided).squeeze(1)
    if dropped is None:
        return torch.arange(len(guided), device=guided.device)
    if dropped_count is None:
        return torch.nonzero(~dropped).squeeze(1)
    return torch.argsort(dropped.to(torch.int8), stable=True)[: len(guided) - dropped_count]
