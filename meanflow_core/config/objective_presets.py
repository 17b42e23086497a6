"""The named objectives: what each name stands for. Reading it needs no torch.

All of them regress u(z_t, r, t) on u* = a c + (1 - a) u(z_s, r, s), with s = t - a (t - r) and z_s = z_t - a (t - r) d
(docs/mathematics.md). A name chooses the split a, whose velocity the first leg c is, the direction d, the law of r, and
the weight. A value that the configuration sets wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SplitLaw = Literal["constant", "linear", "cosine", "exponential", "sigmoid", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What `objective.name` stands for; fields named as keys are the defaults of those keys."""

    leg: Literal["data", "own"] = "data"
    """Whose velocity the first leg is: the data's v~, or the network's own."""
    law: SplitLaw = "constant"
    """`objective.split.law`."""
    start: float = 0.0
    """`objective.split.start`. a = 0 is the derivative at t; a = 1 on the network's own leg that at r."""
    end: float | None = None
    """`objective.split.end`; None: the same as `start`."""
    snap: float = 1e-4
    """`objective.split.snap`."""
    direction: float = 0.0
    """`objective.direction`."""
    earlier: Literal["drawn", "zero"] = "drawn"
    """`objective.time.earlier`."""
    power: float = 1.0
    """`objective.weight.power`. 0 for the network's own legs: their error is near 0 where the network answers zero, so
    that any higher power would give those rows all the weight."""
    eps: float = 1e-2
    """`objective.weight.eps`."""
    target: str | None = None
    """A module of `meanflow_core.objectives` whose `target` makes u*. None: the one that split and leg imply."""


PRESETS = {
    "meanflow": Preset(eps=1e-3),
    "imf": Preset(direction=1.0),
    "alphaflow": Preset(law="sigmoid", start=1.0, end=0.0, snap=5e-3),
    "soflow": Preset(law="exponential", start=0.1, end=0.002),
    "consistency": Preset(law="exponential", start=0.1, end=0.002, earlier="zero"),
    "shortcut": Preset(leg="own", start=0.5, power=0.0),
    "split": Preset(leg="own", law="uniform", start=0.0, end=1.0, power=0.0),
    "lsd": Preset(leg="own", start=1.0, power=0.0),
}
"""Every objective by its name. A new one is a line here, and a file with its target where no other one serves."""
