"""What the journal holds of a trial and of its sweep, event by event: the one place that knows the keys.

`from_json` reads what any release has written: a key that it does not know is passed over, one that is not there has
its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from orchestrator.trials import Failure, TrialState

FORMAT = 1
"""Version of what is written; a ledger of a later one is refused."""


@dataclass(frozen=True, kw_only=True)
class _Event:
    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict; `from_json` of it gives an equal event."""
        return asdict(self)

    @classmethod
    def from_json(cls, source: Mapping[str, Any]) -> Self:
        """Rebuild the event from what the journal holds."""
        return cls(**{each.name: source[each.name] for each in fields(cls) if each.name in source})


@dataclass(frozen=True, kw_only=True)
class Point(_Event):
    """One report of a trial, the first of its step."""

    metrics: dict[str, float]
    order: int = 0
    """Its position among all reports of the sweep, from 1; 0 for one that was taken over from another sweep."""
    checkpoint: str | None = None
    seconds: float = 0.0
    """Time the worker spent on this stretch."""
    images: int | None = None
    """Training images consumed from step 0."""
    at: float = 0.0
    """Unix seconds."""
    wall: float = 0.0
    """The sweep's clock, seconds."""
    run: int = 0
    """Number of the run that reported it."""


@dataclass(frozen=True, kw_only=True)
class Carry(_Event):
    """What a trial starts with: kept from an earlier life, or from an equal trial of another sweep."""

    points: dict[int, Point] = field(default_factory=dict)
    busy: float = 0.0
    gpu: float = 0.0
    wasted: float = 0.0
    attempts: tuple[Failure, ...] = ()
    run: int = 0

    @classmethod
    def from_json(cls, source: Mapping[str, Any]) -> Self:
        """Rebuild it; JSON has made text of the steps."""
        points = {int(step): Point.from_json(point) for step, point in source["points"].items()}
        attempts = tuple(Failure.from_dict(failure) for failure in source["attempts"])
        return super().from_json({**source, "points": points, "attempts": attempts})


@dataclass(frozen=True, kw_only=True)
class NewTrial(_Event):
    """What is decided when a trial is created; written as one line."""

    id: str
    config_id: int
    seed: int
    values: dict[str, Any]
    config_hash: str
    metric: str
    """Name of the metric that ranks."""
    goal: str = "minimize"
    judged: str | dict[str, int] = "last"
    """Which reports count, as the sweep file says it (`metric.at`)."""
    replicate: int = 0
    revision: int = 0
    position: int = 0
    """Where the search stood when it was drawn: draws so far, rejected ones included."""
    gpu: float = 0.0
    """GPUs it occupies while it runs."""
    labels: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    """What an evolutionary sampler wants to find again on this trial."""
    carry: Carry | None = None
    waiting: bool = False
    """Born WAITING instead of RUNNING."""
    at: float = 0.0
    """Unix seconds; set when it is recorded."""
    wall: float = 0.0
    """The sweep's clock, seconds; set when it is recorded."""

    @classmethod
    def from_json(cls, source: Mapping[str, Any]) -> Self:
        """Rebuild it, with what it carries."""
        carry = source.get("carry")
        return super().from_json({**source, "carry": Carry.from_json(carry) if carry else None})


@dataclass(frozen=True, kw_only=True)
class RunStart(_Event):
    """A trial goes on from a checkpoint."""

    at: float
    wall: float
    start: int
    """The step of the checkpoint; 0: from the beginning."""
    gpu: float
    drift: list[str] = field(default_factory=list)
    """What differs from the environment that the sweep was started in."""


@dataclass(frozen=True, kw_only=True)
class Exit(_Event):
    """The end of a run (the trial is WAITING, AT_RUNG or PAUSED now), or of the trial: FINISHED, PRUNED or FAILED."""

    state: TrialState
    reason: str
    at: float
    wall: float
    wasted: float = 0.0
    """Seconds of work since the last report."""
    failure: Failure | None = None
    charged: bool = False
    """The run counts against the trial's retries."""
    left_behind: bool = False
    """The trial waited at a rung until there was nothing more to do."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {**asdict(self), "state": self.state.value}

    @classmethod
    def from_json(cls, source: Mapping[str, Any]) -> Self:
        """Rebuild it."""
        failure = source.get("failure")
        known = {"state": TrialState(source["state"]), "failure": Failure.from_dict(failure) if failure else None}
        return super().from_json({**source, **known})


@dataclass(frozen=True, kw_only=True)
class Revision(_Event):
    """The sweep file as it was started (the first revision) or edited."""

    source: dict[str, Any]
    at: float
    changes: list[str] = field(default_factory=list)
    """What differs from the revision before, one line each."""
    moves_space: bool = False
    """Positions of earlier draws mean nothing any more."""
    command: str | None = None
    """Id of the command that asked for it, so that it is not carried out twice."""


CHANGED = "changed since it ended"
"""Reason of a sweep's state: it has ended, and has more to do again."""

REMOVING = "removing"
"""State of a sweep whose removal has begun."""


@dataclass(frozen=True, kw_only=True)
class SweepState(_Event):
    """Where the sweep stands, as last recorded."""

    state: str = "new"
    """new, running, paused, finished, stopped, failed."""
    reason: str = ""
    at: float = 0.0
    """Unix seconds."""
    traceback: str | None = None


@dataclass(frozen=True, kw_only=True)
class Session(_Event):
    """A process that has driven the sweep."""

    pid: int
    host: str
    at: float
    drift: list[str] = field(default_factory=list)
    """What differs from the environment that the sweep was started in."""


@dataclass(frozen=True, kw_only=True)
class WarmStart(_Event):
    """An observation that was taken over from another sweep."""

    values: dict[str, Any]
    metrics: dict[str, float]
    origin: str
    """`sweep/trial`."""
