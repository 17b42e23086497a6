"""What a search may know of its sweep: so that search methods and stopping rules need nothing of the sweep file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from orchestrator.space import Space

if TYPE_CHECKING:
    from orchestrator.search.rule import Rule


class Goal(Protocol):
    """A metric and its direction."""

    @property
    def name(self) -> str:
        """What the trainer reports it as."""

    @property
    def goal(self) -> Literal["minimize", "maximize"]:
        """Its direction."""


class Sweep(Protocol):
    """The part of a `SweepSpec` that a search looks at."""

    @property
    def space(self) -> Space:
        """What may be chosen."""

    @property
    def seed(self) -> int:
        """Of the sweep."""

    @property
    def metrics(self) -> Sequence[Goal]:
        """The first one ranks."""

    @property
    def run_cap(self) -> int | None:
        """Most trials of the search."""

    @property
    def limited(self) -> bool:
        """Whether `run_cap` or a budget ends the sweep."""

    @property
    def early_terminate(self) -> Rule:
        """When trials stop early."""
