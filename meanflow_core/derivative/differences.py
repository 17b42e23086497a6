"""du/dt by central differences: inexact, but it asks nothing of the network."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow_core.derivative.forward_mode import bare
from meanflow_core.derivative.query import Query
from meanflow_core.flow import Network
from meanflow_core.rng import RandomState, one_draw


def by_finite_difference(net: Network, at: Query) -> tuple[Tensor, Tensor]:
    """Take the central difference (u(+h) - u(-h)) / 2h; its error is of order h^2 plus rounding / h.

    r and t leave [0, 1] by h at most. The two passes are float32 whatever the autocast, since bfloat16 has too few
    digits to take differences of. They draw the random numbers of the prediction.
    """
    step = torch.finfo(at.z.dtype).eps ** (1 / 3)
    before = RandomState.now(at.z.device)
    u = net(at.z, at.r, at.t, at.labels)
    random = before.moved()
    where = at.whole(u) if random else at.head()

    def moved(h: float) -> Tensor:
        if random:
            before.restore()
        return bare(net)(where.z + h * where.dz, where.r + h * at.dr, where.t + h * at.dt, where.labels)

    with one_draw(at.z.device), torch.no_grad(), torch.autocast(at.z.device.type, enabled=False):
        return u, ((moved(step) - moved(-step)) / (2 * step))[: at.rows]
