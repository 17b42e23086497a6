"""New trials: the next configuration of the search, and one more seed of the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError
from orchestrator.engine.identity import identity
from orchestrator.ledger import Ledger, NewTrial, TrialHistory
from orchestrator.results import estimates
from orchestrator.search import Draw, Observation, finite, next_replicate
from orchestrator.spec import ENDLESS, completed
from orchestrator.trials import BAD_REGION, TrialRecord, TrialState, group_by_config

if TYPE_CHECKING:
    from orchestrator.engine.reuse import Known

Labels = Callable[[Mapping[str, Any]], Mapping[str, Any]]


BEFORE_ALL = -1
"""Position of what the search has not drawn: its draws are those that it would have made without."""
KEY = "try_first"


class Proposals:
    """Decides on new trials and records their births; each is a function of the record and of the sweep's seed.

    Args:
        ledger: the sweep's ledger, open for writing.
        known: configurations finished in other sweeps, to be reused or skipped.
    """

    def __init__(self, ledger: Ledger, known: Mapping[str, Known]) -> None:
        self._ledger = ledger
        self._known = known
        self._observed: dict[str, tuple[TrialRecord, Observation]] = {}
        self._lengths: dict[str, int] = {}
        self._identities: dict[str, str] = {}
        self.renew()

    def renew(self) -> None:
        """Search by the sweep file as it is now."""
        self._spec = self._ledger.spec()
        self._search = self._spec.method(self._spec)
        self.exhausted = False
        """Whether the search has no combination left."""

    def searched(self) -> list[TrialHistory]:
        """Return the trials of the search itself, in the order of their births; also deleted ones: they were drawn."""
        return [history for history in self._ledger.births() if not history.replicate]

    def complete(self) -> bool:
        """Whether the search has all the trials that it may have."""
        return self.exhausted or (self._spec.run_cap is not None and len(self.searched()) >= self._spec.run_cap)

    # ----------------------------------------------------------------------------------------- configurations

    def next_configuration(
        self, *, wall: float, gpu: float, drift: Sequence[str], labels: Labels
    ) -> TrialHistory | None:  # fmt: skip
        """Draw the next configuration and record its trial; None when there is none.

        One that another sweep has finished starts with those reports and the label `reused`: it has ended already.

        Args:
            wall: the sweep's clock.
            gpu: GPUs that a trial occupies.
            drift: what differs from the environment that the sweep was started in.
            labels: returns what is recorded with a trial of a configuration.
        """
        if self.complete():
            return None
        trials = self.searched()
        found: dict[str, Any] = {}
        hashes = {self._identity(history) for history in trials}

        def accept(values: dict[str, Any]) -> bool:
            try:
                config = self._spec.config_for(values, seed=values.get("seed", self._spec.seed))
            except ConfigError:
                return False  # the training configuration's own rules forbid it
            found["hash"], found["config"] = self._spec.config_hash(config), config
            if self._spec.on_duplicate == "skip" and found["hash"] in self._known:
                return False
            return found["hash"] not in hashes or self._spec.method.repeats(self._spec.on_duplicate)

        born = partial(self._born, number=self._next_number(trials), wall=wall, gpu=gpu, drift=drift)
        for index, given in enumerate(self._spec.try_first):
            values = completed(self._spec.space, given, index)
            if accept(values) and found["hash"] not in hashes:  # else it was tried
                return born(Draw(BEFORE_ALL, values), found["hash"], labels={"asked": KEY, **labels(found["config"])})
        draw = self._search.draw(self._position(trials), self.observations(trials), accept)
        if draw is None:
            self.exhausted = True
            return None
        return born(draw, found["hash"], labels=labels(found["config"]))

    def _next_number(self, trials: Sequence[TrialHistory]) -> int:
        """Return the next configuration's number; one of a line that was lost is not given again."""
        return max((history.config_id + 1 for history in trials), default=0)

    def _identity(self, history: TrialHistory) -> str:
        if history.id not in self._identities:
            self._identities[history.id] = identity(self._ledger, history)
        return self._identities[history.id]

    def _position(self, trials: Sequence[TrialHistory]) -> int:
        """Draws made so far under the present search space."""
        since = self._ledger.space_revision
        return max((history.birth.position + 1 for history in trials if history.birth.revision >= since), default=0)

    def _born(
        self,
        draw: Draw,
        config_hash: str,
        *,
        number: int,
        wall: float,
        gpu: float,
        drift: Sequence[str],
        labels: Mapping[str, Any] = MappingProxyType({}),
    ) -> TrialHistory:
        reuses = self._spec.on_duplicate == "reuse" and self._spec.method.reuses
        known = self._known.get(config_hash) if reuses else None
        drifted: dict[str, Any] = {"drift": list(drift)} if drift and known is None else {}
        new = NewTrial(
            id=str(number),
            config_id=number,
            seed=int(draw.values.get("seed", self._spec.seed)),
            values=draw.values,
            config_hash=config_hash,
            metric=self._spec.metric.name,
            goal=self._spec.metric.goal,
            judged=self._spec.metric.at.to_json(),
            revision=self._ledger.revision,
            position=draw.position,
            gpu=gpu,
            labels={**labels, **(drifted if known is None else {"reused": known.origin})},
            sampler=draw.sampler,
            carry=None if known is None else known.carry(),
        )
        self._ledger.add_trial(new, params=self._search.params(draw.values), wall=wall)
        return self._ledger.history(new.id)

    def forecast(self) -> Mapping[int, float]:
        """Return what the trials are expected to come to at their end, by number, as far as the search can tell."""
        return self._search.forecast(self.observations(self.searched()))

    def observations(self, trials: Sequence[TrialHistory]) -> list[Observation]:
        """Return what the search may know: the observations of other sweeps, then these trials by number."""
        names = [metric.name for metric in self._spec.metrics]
        seen = [
            Observation(-1, warm.values, TrialState.FINISHED, finite(warm.metrics.get(name) for name in names))
            for warm in self._ledger.warm()
        ]
        for history in sorted(trials, key=lambda history: history.config_id):
            if history.deleted:
                continue
            record = history.record()
            cached = self._observed.get(record.id)
            if cached is None or cached[0] is not record:
                cached = self._observed[record.id] = record, self._observation(history, record, names)
            seen.append(cached[1])
        return seen

    # ---------------------------------------------------------------------------------------------- seeds

    def next_replicate(self, *, wall: float, gpu: float, drift: Sequence[str]) -> TrialHistory | None:
        """Decide on one more seed of one of the best configurations and record its trial; None when none is wanted.

        To be asked when the search is through and no trial of it runs. The arguments are those of `next_configuration`.
        """
        if self._spec.replicates is None:
            return None
        known = estimates(self._spec, group_by_config(trial.record() for trial in self.searched() if not trial.deleted))
        expected = {number: found.value for number, found in known.configurations.items()} if known else {}
        wanted = next_replicate(self._spec.replicates, self._spec.metric, self._ledger.trials(), expected)
        if wanted is None:
            return None
        searched = self._ledger.history(str(wanted.config_id))
        spec, seed = self._ledger.spec(searched.birth.revision), searched.birth.seed + wanted.replicate
        new = NewTrial(
            id=f"{wanted.config_id}.{wanted.replicate}",
            config_id=wanted.config_id,
            replicate=wanted.replicate,
            seed=seed,
            values=searched.values,
            config_hash=spec.config_hash(spec.config_for(searched.values, seed=seed)),
            metric=spec.metric.name,
            goal=spec.metric.goal,
            judged=spec.metric.at.to_json(),
            revision=searched.birth.revision,
            gpu=gpu,
            labels={"drift": list(drift)} if drift else {},
        )
        self._ledger.add_trial(new, params=self._search.params(searched.values), wall=wall)
        return self._ledger.history(new.id)

    def _observation(self, history: TrialHistory, record: TrialRecord, names: Sequence[str]) -> Observation:
        last, metric = record.reports.get(record.steps, {}), self._spec.metric
        reports = {
            step: value for step, report in record.reports.items() for value in finite([report.get(names[0])]) or ()
        }
        reports = metric.scores(reports)
        first = reports[record.steps] if record.steps in reports else last.get(names[0])
        return Observation(
            number=record.config_id,
            values=record.values,
            state=record.state,
            metrics=finite([first, *(last.get(name) for name in names[1:])]),
            step=record.steps,
            bad=record.failure is not None and record.failure.kind in BAD_REGION,
            sampler=history.birth.sampler,
            reports=reports,
            arrivals={step: int(history.points[step].order) for step in reports},
            length=self._length(history),
        )

    def _length(self, history: TrialHistory) -> int:
        if history.id not in self._lengths:
            born = self._ledger.spec(history.birth.revision)
            config = born.config_for(history.birth.values, seed=history.birth.seed)
            self._lengths[history.id] = born.length(config)
        length = self._lengths[history.id]
        if length < ENDLESS:
            return length
        return max(
            each.last_step for each in self._ledger.histories()
        )  # as far as any has come, as long as nobody knows
