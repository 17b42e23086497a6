"""What a ledger says of its sweep as a whole: whose it is, where it runs, how it stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.ledger.events import Session, SweepState
from orchestrator.provenance import host_name, user_name

if TYPE_CHECKING:
    from orchestrator.ledger.studies import Studies


class SweepFacts:
    """The facts of a sweep.

    Args:
        studies: that hold them; they change as the ledger is written.
    """

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._facts = studies.facts

    @property
    def id(self) -> str:
        """What no other sweep has, also of the same name; empty in a ledger of before, until it is written to."""
        return str(self._facts.get("id", ""))

    @property
    def owner(self) -> dict[str, str]:
        """Who started the sweep, and where: `{user, host}`; empty in a ledger of before."""
        return dict(self._facts.get("owner", {}))

    def environment(self) -> dict[str, Any]:
        """Return the environment the sweep was started in."""
        return dict(self._facts.get("environment", {}))

    def sessions(self) -> list[Session]:
        """Return every driver so far."""
        return [Session.from_json(session) for session in self._facts.get("sessions", [])]

    def state(self) -> SweepState:
        """Return where the sweep stands; one that says "running" but has no driver was interrupted."""
        return SweepState.from_json(self._facts.get("state", {}))

    def fact(self, key: str, default: Any = None) -> Any:
        """Return a fact noted with `note`."""
        return self._facts.get(f"note:{key}", default)

    def note(self, key: str, value: Any) -> None:
        """Record a JSON-able fact about the sweep."""
        self._studies.set_fact(f"note:{key}", value)

    def set_state(self, state: str, reason: str = "", *, traceback: str | None = None) -> None:
        """Record where the sweep stands."""
        now = SweepState(state=state, reason=reason, at=time.time(), traceback=traceback)
        self._studies.set_fact("state", now.to_json())

    def set_wall(self, seconds: float) -> None:
        """Record the sweep's clock, for stretches without any other event."""
        self._studies.set_fact("wall", seconds)

    def set_environment(self, environment: Mapping[str, Any]) -> None:
        """Complete what is known of the environment the sweep was started in."""
        self._studies.set_fact("environment", dict(environment))


def owner_here() -> dict[str, str]:
    """Return who starts a sweep, and where."""
    return {"user": user_name(), "host": host_name()}
