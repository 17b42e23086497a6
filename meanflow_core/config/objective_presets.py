"""The named objectives: what each name stands for.

All of them regress u(z_t, r, t) on u* = a c + (1 - a) u(z_s, r, s), with s = t - a (t - r) and z_s = z_t - a (t - r) d
(docs/mathematics.md). A name chooses the split a, whose velocity the first leg c is, the direction d, r, and the
weight. A value that the configuration sets wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SplitLaw = Literal["constant", "linear", "cosine", "exponential", "sigmoid", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What `objective.name` stands for."""

    leg: Literal["data", "own"] = "data"
    """Whose velocity the first leg c is: the data's v~, or the network's own."""
    law: SplitLaw = "constant"
    """`objective.split.law` where it is not set."""
    start: float | None = None
    """`objective.split.start`; None: that of `SPLITS`. 0 is the derivative at t; 1, on the network's own leg, that
    at r."""
    direction: float = 0.0
    """`objective.direction`."""
    earlier: Literal["drawn", "zero"] = "drawn"
    """`objective.time.earlier`."""
    power: float = 1.0
    """`objective.weight.power`. 0 for the network's own legs: their error is near 0 where the network answers zero, so
    that a higher power would give those rows all the weight."""
    eps: float = 1e-2
    """`objective.weight.eps`."""
    target: str | None = None
    """A module of `meanflow_core.objectives` whose `target` makes u*. None: the one that leg and split imply."""


PRESETS = {
    "meanflow": Preset(start=0.0, eps=1e-3),
    "imf": Preset(start=0.0, direction=1.0),
    "alphaflow": Preset(law="sigmoid"),
    "soflow": Preset(law="exponential"),
    "consistency": Preset(law="exponential", earlier="zero"),
    "shortcut": Preset(leg="own", start=0.5, direction=1.0, power=0.0),
    "split": Preset(leg="own", law="uniform", direction=1.0, power=0.0),
    "lsd": Preset(leg="own", start=1.0, direction=1.0, power=0.0),
}
"""Every objective by its name. A new one is a line here, and a file with its target where no other one serves."""


@dataclass(frozen=True)
class SplitDefaults:
    """The values of `objective.split` that a distribution has where neither the configuration nor the preset says."""

    start: float
    end: float
    snap: float = 1e-4


SPLITS: dict[SplitLaw, SplitDefaults] = {
    "constant": SplitDefaults(0.5, 0.5),
    "linear": SplitDefaults(1.0, 0.0),
    "cosine": SplitDefaults(1.0, 0.0),
    "exponential": SplitDefaults(0.1, 0.002),
    "sigmoid": SplitDefaults(1.0, 0.0, snap=5e-3),
    "uniform": SplitDefaults(0.0, 1.0),
}
