"""`method: qmc`, and the first draws of methods that start from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from orchestrator.search.draws import Observation, Sobol
from orchestrator.search.method import Method


class Quasirandom(Method):
    """A method whose draws without a model follow a Sobol sequence."""

    @cached_property
    def _sobol(self) -> Sobol:
        return Sobol(self.space, self.sweep.seed)

    def free(self, position: int) -> dict[str, Any]:
        """See `Method`."""
        return self._sobol.at(position, self.belief(position))


class Qmc(Quasirandom):
    """The Sobol sequence alone."""

    name = "qmc"
    about = "a scrambled Sobol sequence: random search that leaves no gaps"

    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Method`."""
        return self.free(position), {}
