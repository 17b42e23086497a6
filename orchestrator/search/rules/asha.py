"""Successive halving without waiting (ASHA, Li et al., arXiv 1810.05934), in two forms.

It stops: a trial is judged once at each rung, against those that were there before it. Or, with `promote`, Algorithm 2
of the paper: a trial that comes to a rung waits there, its checkpoint kept and its worker free, until it is among the
best 1/eta of all that have come to that rung.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from meanflow_core.errors import Problem
from orchestrator.limits import Limits
from orchestrator.search.curve import Curve
from orchestrator.search.rule import Comparing
from orchestrator.search.rules.arrivals import PLAYED, arrivals, keep_count, promotions
from orchestrator.search.rung_evidence import agreement

SURE = 8
"""Trials in the better half from which on `rungs: auto` believes that a rung misleads."""


@dataclass(frozen=True, kw_only=True)
class Asha(Comparing):
    """At rungs min_iter, min_iter eta, ... only the best 1/eta of what has reached one goes on."""

    name: ClassVar[str] = "asha"
    about: ClassVar[str] = "at each rung, only the best 1/eta of what has reached it goes on"
    several_metrics: ClassVar[bool] = False
    as_wandb: ClassVar[bool] = False
    """Whether a rung between two steps is the one before, and `min_iter` counts more than `s`, as in W&B."""
    unused: ClassVar[Mapping[str, str]] = {"strict": "a trial is judged once at each rung, against all that reached it"}

    min_iter: Annotated[int, Limits(low=1)] | None = None
    """The first rung."""
    max_iter: Annotated[int, Limits(low=2)] | None = None
    """The last rung lies below it; by default the length of a trial."""
    s: Annotated[int, Limits(low=1)] | None = None
    """With max_iter and no min_iter (W&B): the number of rungs, max_iter / eta^k."""
    eta: Annotated[float, Limits(above=1)] = 3.0
    """One in eta goes on at each rung, and the next rung is eta times as far."""
    promote: bool = False
    """Trials wait at each rung, their workers free, until they are among its best 1/eta; none is stopped there."""
    brackets: Annotated[int, Limits(low=1)] = 1
    """Trials are dealt to this many brackets; bracket b has no use of the first b rungs (Hyperband's hedge)."""
    audit: Annotated[float, Limits(low=0, high=0.5)] = 0.05
    """The share of trials that no rung judges: they are trained to their end and show whether the rungs mislead."""
    rungs: Literal["fixed", "auto"] = "fixed"
    """`auto`: a new trial is judged by the rungs alone that come after the last one that misleads."""
    unit: Literal["steps", "images"] = "steps"
    """Of min_iter and max_iter. `images` keeps a sweep over batch sizes comparable."""

    def problems(self) -> Iterator[Problem]:
        """See `Rule`."""
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            yield Problem(key="", rule="needs `min_iter` (the first rung), or `max_iter` and `s` (the number of rungs)")
        if self.min_iter is not None and self.s is not None and not self.as_wandb:
            rule = "counts rungs down from `max_iter`; with `min_iter` they are counted up: keep one"
            yield Problem(key="s", rule=rule)
        if self.min_iter and self.max_iter and self.min_iter >= self.max_iter:
            yield Problem(key="min_iter", rule=f"`min_iter < max_iter` must hold (max_iter is {self.max_iter})")

    def notes(self) -> Iterator[tuple[str, str]]:
        """See `Rule`."""
        if self.min_iter is not None and self.min_iter < 10:
            first = f"the first rung is at {self.min_iter} {self.unit}"
            yield "min_iter", f"counts {self.unit}, not log calls as in W&B: {first}"
        if self.min_iter is None and self.max_iter is not None and self.max_iter < 100:
            rungs = ", ".join(map(str, self.steps_of_rungs(self.max_iter)))
            where = f"the rungs are at {rungs} {self.unit}" if rungs else "it leaves no rung, so no trial is stopped"
            yield "max_iter", f"counts {self.unit}, not log calls as in W&B: {where}"
        if self.min_iter is not None and self.s is not None:
            yield "s", "not used beside `min_iter`, from which the rungs are counted up, as in W&B"

    def steps_of_rungs(self, length: int, *, batch_size: int = 1, bracket: int = 0) -> list[int]:
        """See `Rule`."""
        scale = batch_size if self.unit == "images" else 1
        end = min(length, math.ceil(self.max_iter / scale)) if self.max_iter is not None else length
        points: list[float] = []
        if self.min_iter is not None:
            point = float(self.min_iter)
            while point < end * scale:
                points.append(point)
                point *= self.eta
        elif self.max_iter is not None and self.s is not None:
            point = float(self.max_iter)
            for _ in range(self.s):
                point /= self.eta
                if point < scale:
                    break
                points.append(point)
        whole = math.floor if self.as_wandb else math.ceil
        steps = sorted({whole(round(point / scale, 6)) for point in points})
        return [step for step in steps if 0 < step < length][bracket % self.brackets :]

    def expected(
        self, trials: int, length: int, *, batch_size: int = 1, groups: int = 1
    ) -> list[tuple[int, float]]:  # fmt: skip
        """Trials are taken to arrive in random order of quality, and to keep their order from rung to rung."""
        reaching = dict.fromkeys((*self.steps_of_rungs(length, batch_size=batch_size), length), 0.0)
        for part in range(self.brackets * groups):
            own = self.steps_of_rungs(length, batch_size=batch_size, bracket=part % self.brackets)
            numbers = range(part, trials, self.brackets * groups)
            through = sum(map(self.audited, numbers)) if trials <= PLAYED else round(len(numbers) * self.audit)
            counts = (promotions if self.promote else arrivals)(len(numbers) - through, len(own), self.eta)
            at = 0
            for step in reaching:
                reaching[step] += counts[at] + through
                at += step in own
        return list(reaching.items())

    def audited(self, number: int) -> bool:
        """Whether no rung judges the trial of this number: every so many-th, whatever it reports."""
        return self.audit > 0 and (number + 1) % round(1 / self.audit) == 0

    def chance(self, goal: str, curves: Mapping[str, Curve], trial: str) -> float:
        """See `Rule`: one that was let through, and would not have been by its rungs, stands for all such."""
        curve = curves[trial]
        if not self.audited(curve.number):
            return 1.0
        for rung in range(max(curve.number % self.brackets, curve.first), len(curve.rungs)):
            order = self._ranking(goal, curves, rung, curve.number % self.brackets, curve.group)
            place = next((at for at, entry in enumerate(order) if entry[2] == trial), 0)
            if place >= keep_count(len(order), self.eta):
                return 1 / round(1 / self.audit)
        return 1.0

    def first_rung(self, goal: str, curves: Mapping[str, Curve], group: Hashable = None) -> int:
        """See `Rule`."""
        if self.rungs != "auto":
            return 0
        own = {trial: curve for trial, curve in curves.items() if curve.group == group}
        for index in reversed(range(max((len(curve.rungs) for curve in own.values()), default=0))):
            found = agreement(self, goal, own, lambda curve, index=index: curve.at_rung(index))  # type: ignore[misc]
            if found is not None and found.better >= SURE and found.misleads:
                return index + 1
        return 0

    # ------------------------------------------------------------------------------------- stopping

    def _reason(self, sign: float, curves: Mapping[str, Curve], trial: str) -> str | None:
        """At each rung just reached, only the best 1/eta of those that have reached it so far goes on.

        The value that counts at a rung never changes again; see `Curve.at_rung`.
        """
        if self.promote:
            return None
        curve = curves[trial]
        now, previous = curve.order[-1], curve.steps[-2] if len(curve.steps) > 1 else 0
        bracket, index = curve.number % self.brackets, bisect_right(curve.rungs, curve.steps[-1]) - 1
        if self.audited(curve.number) or index < max(bracket, curve.first) or curve.rungs[index] <= previous:
            return None
        peers = (other for other in curves.values() if other.number % self.brackets == bracket)
        values = sorted(sign * value for peer in peers if (value := peer.at_rung(index, now)) is not None)
        own = sign * curve.values[-1]
        last_kept = values[keep_count(len(values), self.eta) - 1]
        if own <= last_kept:  # equal values are kept: the order of arrival must not decide between them
            return None
        return self._said(1 + bisect_left(values, own), len(values), curve.rungs[index])

    def _said(self, place: int, of: int, step: int) -> str:
        return f"{self.name}: place {place} of {of} at step {step}, the best 1/{self.eta:g} goes on"

    # ------------------------------------------------------------------------------------ promotion

    @property
    def promotes(self) -> bool:
        """See `Rule`."""
        return self.promote

    def held_at(self, curve: Curve, passed: int) -> int | None:
        """See `Rule`."""
        step = curve.steps[-1] if curve.steps else 0
        index = bisect_right(curve.rungs, step) - 1
        if (
            self.audited(curve.number)
            or step >= curve.length
            or index < max(curve.number % self.brackets, curve.first)
            or curve.rungs[index] <= passed
        ):
            return None
        return index

    def next_promotion(
        self,
        goal: str,
        curves: Mapping[str, Curve],
        held: Mapping[str, int],
        *,
        last: bool,
        forecast: Mapping[int, float] = MappingProxyType({}),
    ) -> str | None:
        """Return the best of the highest rung that has one to go on.

        With `last`, one in eta is rounded up, so that some trial is trained to its end however few there are; before,
        it is rounded down, as a trial that waits can still be let through.

        As in the paper, who was promoted and falls back behind others takes no place from them, so that more than one
        in eta goes on: the first promotions are guesses. To count places instead took up to six times the steps on
        MeanFlow's curves (docs/performance.md).
        """
        for rung in sorted(set(held.values()), reverse=True):
            found = []
            there = {(curves[trial].number % self.brackets, curves[trial].group) for trial in held}
            for bracket, group in there:
                order = self._ranking(goal, curves, rung, bracket, group, forecast)
                count = keep_count(len(order), self.eta) if last else math.floor(len(order) / self.eta + 1e-9)
                found += [entry for entry in order[:count] if held.get(entry[2]) == rung]
            if found:
                return min(found)[2]
        return None

    def place(self, goal: str, curves: Mapping[str, Curve], trial: str, rung: int) -> str:
        """See `Rule`."""
        curve = curves[trial]
        ranking = self._ranking(goal, curves, rung, curve.number % self.brackets, curve.group)
        order = [entry[2] for entry in ranking]
        return self._said(1 + order.index(trial), len(order), curve.rungs[rung])

    def _ranking(
        self,
        goal: str,
        curves: Mapping[str, Curve],
        rung: int,
        bracket: int,
        group: Hashable,
        forecast: Mapping[int, float] = MappingProxyType({}),
    ) -> list[tuple[float, int, str]]:
        """The comparable trials that have come to a rung, best first: (value, number, id), smaller being better."""
        sign = 1.0 if goal == "minimize" else -1.0
        found = []
        for trial, curve in curves.items():
            value = curve.at_rung(rung)
            if value is not None and curve.number % self.brackets == bracket and curve.group == group:
                found.append((sign * forecast.get(curve.number, value), curve.number, trial))
        return sorted(found)


@dataclass(frozen=True, kw_only=True)
class Hyperband(Asha):
    """The same under W&B's name for it."""

    name: ClassVar[str] = "hyperband"
    about: ClassVar[str] = "the same, with W&B's bands: counted up from min_iter, or down from max_iter with s"
    as_wandb: ClassVar[bool] = True
