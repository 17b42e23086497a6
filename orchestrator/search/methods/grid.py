"""`method: grid`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from orchestrator.search.draws import Accept, Draw, Observation
from orchestrator.search.method import Method
from orchestrator.search.sweep import Sweep


class Grid(Method):
    """Every combination of a finite space in its order; a position is a place in that order."""

    name = "grid"
    about = "every combination, once"
    exhaustive = True
    believes = False

    @classmethod
    def notes(cls, sweep: Sweep) -> Iterator[str]:
        """Weights mean nothing to a grid."""
        weighted = [parameter.name for parameter in sweep.space.parameters if parameter.probabilities]
        if weighted:
            yield f"a grid takes every value once, whatever its probability: {', '.join(weighted)}"

    @classmethod
    def repeats(cls, on_duplicate: str) -> bool:
        """Never: each combination once, by definition."""
        return False

    @cached_property
    def _all(self) -> list[dict[str, Any]]:
        return list(self.space.grid())

    def draw(self, position: int, observations: Iterable[Observation], accept: Accept) -> Draw | None:
        """See `Method`; nothing is left after the last combination."""
        places = range(position, len(self._all))
        return next((Draw(at, self._all[at]) for at in places if accept(self._all[at])), None)

    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Method`."""
        return self._all[position], {}
