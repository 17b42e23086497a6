"""The trials that a runner holds, and the work in them that no report accounts for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.trials import Report


@dataclass
class LiveTrial:
    """A trial that a runner holds."""

    handed: float
    """The clock when it was handed out."""
    since: float
    """The clock at its last report, or when it was handed out."""
    reached: int
    """Its start, then the step of its last report."""
    reported: float = 0.0
    """Seconds of work its reports account for."""
    leaving: bool = False
    """It was told to pause: it does no more work."""
    pausing: bool = False
    """Somebody has asked to pause it."""


class LiveTrials:
    """Live trials by id.

    Args:
        clock: seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._trials: dict[str, LiveTrial] = {}

    def __contains__(self, trial: object) -> bool:
        return trial in self._trials

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._trials))

    def __len__(self) -> int:
        return len(self._trials)

    def get(self, trial: str) -> LiveTrial | None:
        """Return a trial that a runner holds, None for any other."""
        return self._trials.get(trial)

    def add(self, trial: str, start: int) -> None:
        """Take in that a trial was handed out, to go on from the step `start`."""
        now = self._clock()
        self._trials[trial] = LiveTrial(handed=now, since=now, reached=start)

    def remove(self, trial: str) -> LiveTrial | None:
        """Take in that a trial's run has ended."""
        return self._trials.pop(trial, None)

    def reported(self, live: LiveTrial, report: Report) -> None:
        """Take in a report."""
        live.reported += report.seconds
        live.reached, live.since = report.step, self._clock()

    def lost(self, live: LiveTrial | None) -> float:
        """Return the seconds of work since a trial's last report, which are lost if it is interrupted now."""
        return 0.0 if live is None or live.leaving else max(0.0, self._clock() - live.since)

    def unreported(self, live: LiveTrial | None = None) -> float:
        """Return the seconds since a trial was handed out that no report accounts for; None: of all trials."""
        chosen = self._trials.values() if live is None else (live,)
        return sum(max(0.0, self._clock() - each.handed - each.reported) for each in chosen)
