"""Training metrics without waiting for the device, and the rules by which a training has diverged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from meanflow_core.distributed import World
from meanflow_core.errors import TrainingDiverged
from meanflow_core.training.training_loss import SUMS

EXPLODED = {"train/velocity_error": 100.0, "train/squared_error": 1e4}
"""A training has exploded where the mean of an error over a logging interval exceeds this many times the least such
mean so far, a network that answers zero included. The first rows of a sound training lie at 1 and fall. The velocity
error (r = t) contains no du/dt and is steady; the error of all rows has spikes, so it gets more room."""


class Meter:
    """Sums over the steps since the last logged row, kept on the device and read once a row.

    Args:
        batch_size: rows of the global batch.
        rows: rows of it with r < t.
        world: the processes the batch is shared by.
        device: of the sums.
        clock: seconds.
        look: whether to look at every step for values that are not finite; None: where that costs nothing (one
            process on a CPU). Otherwise a flag on the device remembers the step until the next row.
    """

    def __init__(
        self,
        batch_size: int,
        rows: int,
        world: World,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
        look: bool | None = None,
    ) -> None:
        self._batch, self._rows, self._world, self._clock = batch_size, rows, world, clock
        self._device = device
        self._look = device.type == "cpu" and world.size == 1 if look is None else look
        self.last_finite: dict[str, float] = {}
        """The last finite values known, with their step."""
        self.least: dict[str, float] = {}
        """The least mean of each error so far."""
        self.restart()

    def restart(self) -> None:
        """Begin a new window."""
        self._sums: dict[tuple[str, ...], Tensor] = {}
        """By the names of the objective's own sums, which may change as its split does: [names + SUMS + 2]."""
        self._counts: dict[tuple[str, ...], int] = {}
        """Steps that were added to each of them."""
        self._bad = torch.full((), -1, dtype=torch.int64, device=self._device)  # the first step that was not finite
        self._steps = 0
        self._began = self._clock()

    def add(self, step: int, loss: Tensor, sums: Tensor, grad_norm: Tensor, own: tuple[str, ...] = ()) -> None:
        """Take in one step.

        Args:
            step: its number.
            loss: the sum of this process's part losses over the number of all parts, a scalar.
            sums: of its rows: those of `SUMS`, then the objective's own.
            grad_norm: of the whole gradient.
            own: the names of the objective's own sums, over the rows with r < t.

        Raises:
            TrainingDiverged: a value is not finite (unless not looked at; then the next row raises).
        """
        self._steps += 1
        norm = grad_norm.double() / self._world.size  # equal in every process; the sum over them is the norm again
        values = torch.cat([sums.double(), loss.double()[None], norm[None]])
        self._sums[own] = self._sums[own] + values if own in self._sums else values
        self._counts[own] = self._counts.get(own, 0) + 1
        bad = ~(loss.isfinite() & grad_norm.isfinite())
        if self._look:
            if bad:
                self._raise(step, f"the {'gradient' if loss.isfinite() else 'loss'} is not finite")
            self.last_finite = {"step": step, "train/loss": float(loss), "train/grad_norm": float(grad_norm)}
        else:
            self._bad = torch.where((self._bad < 0) & bad, step, self._bad)

    def row(self, step: int) -> dict[str, float]:
        """Return the means since the last row, and begin a new window.

        Raises:
            TrainingDiverged: a value was not finite, or the error exploded.
        """
        totals, own = self._means()
        bad = int(self._world.total((self._bad >= 0).double()))
        seconds = self._clock() - self._began
        if bad:
            where = int(self._bad) if int(self._bad) >= 0 else step
            self._raise(where, "the loss or the gradient is not finite")
        row = {
            "train/loss": totals["loss"],
            "train/squared_error": totals["squared_error"] / self._batch,
            "train/grad_norm": totals["grad_norm"],
            "train/u_norm": totals["u_norm"] / self._batch,
            "train/target_norm": totals["target_norm"] / self._batch,
            "train/velocity_norm": (totals["velocity_power"] / self._batch) ** 0.5,
            "train/weight": totals["weight"] / self._batch,
        }
        if self._batch > self._rows:
            row["train/velocity_error"] = totals["velocity_error"] / (self._batch - self._rows)
        if self._rows:
            row |= {f"train/{name}": value / self._rows for name, value in own.items()}
        for name, value in row.items():
            if not math.isfinite(value):
                self._raise(step, f"{name} is not finite")
        power = totals["velocity_power"] / self._batch
        self._check_explosion(step, row, power)
        row["train/steps_per_second"] = self._steps / max(seconds, 1e-9)
        self.last_finite = {"step": step, **row}
        self.restart()
        return row

    def _means(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the means over steps of the sums: the common ones, and the objective's own, each over its steps."""
        common = dict.fromkeys((*SUMS, "loss", "grad_norm"), 0.0)
        own: dict[str, float] = {}
        for names, sums in self._sums.items():
            order = (*SUMS, *names, "loss", "grad_norm")
            for name, value in zip(order, self._world.total(sums).tolist(), strict=True):
                if name in common:
                    common[name] += value / self._steps
                else:
                    own[name] = value / self._counts[names]
        return common, own

    def _check_explosion(self, step: int, row: dict[str, float], power: float) -> None:
        """Compare the errors with the least so far; `power` is the error of a network that answers zero."""
        for name, factor in EXPLODED.items():
            if name not in row:
                continue
            least = min(self.least.get(name, power), power)
            if row[name] > factor * least:
                times = row[name] / least
                self._raise(step, f"the loss exploded: {name} is {row[name]:.3g}, {times:.3g} times its least so far")
            self.least[name] = min(least, row[name])

    def _raise(self, step: int, reason: str) -> None:
        raise TrainingDiverged(step, reason, self.last_finite)
