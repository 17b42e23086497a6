"""A rule of early stopping: its keys in the sweep file, and what it says of recorded learning curves.

A decision looks at the reports recorded up to the trial's own last one and at nothing else, so it comes out the same
whether it is taken at once or after a crash and a resume.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, ClassVar

from meanflow_core.errors import Problem
from orchestrator.limits import Limits
from orchestrator.search.curve import Curve


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The base of the rules: never stops a trial. The fields of a rule are its keys in the sweep file.

    Iterations are optimiser steps (or images), never the number of log calls.
    """

    name: ClassVar[str] = "none"
    """Its word in the sweep file (`type`)."""
    about: ClassVar[str] = "never stop a trial"
    """What it does, in a line."""
    several_metrics: ClassVar[bool] = True
    """Whether it makes sense where several metrics are optimised."""
    compares: ClassVar[bool] = False
    """Whether it compares a trial with others at the same step."""
    unused: ClassVar[Mapping[str, str]] = {}
    """Keys of W&B's without a use here, and why: noted, and otherwise passed over."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong between keys that are right by themselves; the key "" is the rule as a whole."""
        yield from ()

    def notes(self) -> Iterator[tuple[str, str]]:
        """Yield (key, text): what is no mistake, but what the user should know."""
        yield from ()

    # ------------------------------------------------------------------------------------- stopping

    def reason_to_stop(self, goal: str, curves: Mapping[str, Curve], trial: str) -> str | None:
        """Return why a trial should stop after its last report, None if it should go on.

        A trial's last step is never judged: the trial ends there anyway.

        Args:
            goal: "minimize" or "maximize".
            curves: all trials of the search by id; `trial` among them, with at least one report.
            trial: the trial that is judged.
        """
        if curves[trial].steps[-1] >= curves[trial].length:
            return None
        peers = {name: curve for name, curve in curves.items() if curve.group == curves[trial].group}
        return self._reason(1.0 if goal == "minimize" else -1.0, peers, trial)

    def _reason(self, sign: float, curves: Mapping[str, Curve], trial: str) -> str | None:
        """The same, before a trial's last step, among its group; `sign` times a value is smaller where it is better."""
        return None

    @property
    def group_key(self) -> str | None:
        """The key whose value makes trials comparable; None: all are."""
        return None

    # --------------------------------------------------------------------------------------- rungs

    def chance(self, goal: str, curves: Mapping[str, Curve], trial: str) -> float:
        """Return the share of such trials that are trained to their end, of one that was; 1 where all are.

        Args:
            goal: "minimize" or "maximize".
            curves: all trials of the search by id.
            trial: one of them.
        """
        return 1.0

    def first_rung(self, goal: str, curves: Mapping[str, Curve], group: Hashable = None) -> int:
        """Return the index of the first rung that judges the next trial: those before mislead, as far as can be told.

        Args:
            goal: "minimize" or "maximize".
            curves: all trials of the search by id.
            group: of the new trial.
        """
        return 0

    def steps_of_rungs(self, length: int, *, batch_size: int = 1, bracket: int = 0) -> list[int]:
        """Return the steps of the rungs of a trial, ascending, all before its end: it reports there too.

        Args:
            length: steps of the whole trial.
            batch_size: rows of a step, where the rule counts images.
            bracket: number of the trial's bracket; 0 has all rungs.
        """
        return []

    @property
    def promotes(self) -> bool:
        """Whether trials wait at its rungs to be let on; `held_at`, `next_promotion` and `place` are asked then."""
        return False

    def held_at(self, curve: Curve, passed: int) -> int | None:
        """Return the index of the rung at which a trial stands after its last report, None if none holds it.

        Args:
            curve: what the trial has reported.
            passed: the step up to which it was let through already.
        """
        return None

    def next_promotion(
        self,
        goal: str,
        curves: Mapping[str, Curve],
        held: Mapping[str, int],
        *,
        last: bool,
        forecast: Mapping[int, float] = MappingProxyType({}),
    ) -> str | None:
        """Return the trial that goes on first, None if none may.

        Args:
            goal: "minimize" or "maximize".
            curves: all trials of the search by id.
            held: index of the rung at which each trial waits that may go on.
            last: no new trial will come to the first rung.
            forecast: what trials are expected to come to at their end, by number, where the search can tell; it
                ranks them then, and not what they have reported at the rung.
        """
        return None

    def place(self, goal: str, curves: Mapping[str, Curve], trial: str, rung: int) -> str:
        """Return a trial's place at a rung, in words."""
        return ""

    # ------------------------------------------------------------------------------------ planning

    def expected(
        self, trials: int, length: int, *, batch_size: int = 1, groups: int = 1
    ) -> list[tuple[int, float]]:  # fmt: skip
        """Return `(steps, expected trials that get there)` for each rung and for the end of a trial.

        What is not known beforehand is not predicted: by default every trial is expected to reach its end.

        Args:
            trials: of the sweep, dealt evenly to `groups` groups that are compared each by itself.
            length: steps of a whole trial.
            batch_size: as in `steps_of_rungs`.
            groups: see `group_key`.
        """
        return [(length, float(trials))]


@dataclass(frozen=True, kw_only=True)
class Comparing(Rule):
    """A rule that compares trials: all of them, or those alone that agree in a parameter."""

    compares: ClassVar[bool] = True

    by: str | None = None
    """A parameter: trials are compared with those alone that have the same value of it, e.g. `objective.name`."""

    @property
    def group_key(self) -> str | None:
        """See `Rule`."""
        return self.by


@dataclass(frozen=True, kw_only=True)
class JudgedFrom(Rule):
    """A rule that judges at every report, from some step on."""

    min_iter: Annotated[int, Limits(low=1)] | None = None
    """No trial is judged before this step."""

    def reason_to_stop(self, goal: str, curves: Mapping[str, Curve], trial: str) -> str | None:
        """See `Rule`."""
        if curves[trial].steps[-1] < (self.min_iter or 0):
            return None
        return super().reason_to_stop(goal, curves, trial)
