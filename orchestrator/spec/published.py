"""What the MeanFlow paper trains with (arXiv 2505.13447): centres for `prior: published`.

Two set-ups: ImageNet 256 (Tables 1, 4 and 5) and CIFAR-10 (appendix A). Where they differ, both are centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """The published values of one key."""

    values: tuple[Any, ...]
    spread: float = 0.0
    """The standard deviation around each, of the order of the steps of the paper's ablations."""


PUBLISHED: dict[str, Published] = {
    "objective.time.ratio": Published((0.25, 0.75), 0.125),
    "objective.time.law": Published(("lognorm",)),
    "objective.time.mean": Published((-0.4, -2.0), 0.3),
    "objective.time.std": Published((1.0, 2.0), 0.25),
    "objective.weight.power": Published((1.0, 0.75), 0.2),
    "objective.guidance.scale": Published((2.0, 2.5), 0.5),
    "objective.guidance.kappa": Published((0.5, 0.92), 0.1),
}
WORD_SHARE = 0.8
"""The share of the belief in published words among a list of words."""
