"""`method: random`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.search.draws import Observation
from orchestrator.search.method import Method


class Random(Method):
    """Each draw by itself, a function of its position."""

    name = "random"
    about = "independent draws"

    def propose(self, position: int, known: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Method`."""
        return self.free(position), {}
