"""What each finished configuration would come to with another seed, and which one to choose: see `search.choice`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

from orchestrator.search import LEAST, Estimates, Observation, by_model, by_seeds
from orchestrator.trials import BAD_REGION, Group, TrialRecord, TrialState, best_first, value_of

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

CONTENDERS = 30
"""Configurations, the best by what was observed, of which one may be chosen."""
KEPT = 4
"""Answers that are remembered: a live display asks again and again."""

_answers: list[tuple[SweepSpec, list[TrialRecord], Estimates]] = []


def estimates(spec: SweepSpec, groups: Sequence[Group]) -> Estimates | None:
    """Return what is expected of the configurations that may be the best one; None where only their values are known.

    Where configurations have seeds, it is about those alone: their means say more than any model.

    Args:
        spec: the sweep.
        groups: all its configurations.
    """
    metric = spec.metric
    if spec.select != "expected" or len(spec.metrics) > 1:
        return None
    stable = {
        group.searched.config_id: group
        for group in groups
        if group.finished and not group.bad_seeds(metric.name, metric.goal)
    }
    seeded = {number: group.by_seed() for number, group in stable.items() if len(group.runs) > 1}
    if seeded:
        return by_seeds(metric.goal, seeded)
    if len(stable) < LEAST:
        return None
    records = [group.searched for group in groups]
    for about, seen, answer in _answers:
        if about is spec and len(seen) == len(records) and all(map(is_, seen, records)):
            return answer
    best = best_first([group.searched for group in stable.values()], metric.goal)[:CONTENDERS]
    known = [observation(spec, record) for record in records if not spec.space.problems(record.values)]
    contenders = {record.config_id: record.values for record in best if not spec.space.problems(record.values)}
    if len(contenders) < LEAST:
        return None
    found = by_model(spec.space, metric.goal, known, contenders)
    _answers[:] = [(spec, records, found), *_answers[: KEPT - 1]]
    return found


def observation(spec: SweepSpec, record: TrialRecord) -> Observation:
    """Return what the model is told of a trial: its last report alone.

    A seed that is lucky is so along its whole curve: several reports of a run do not confirm each other.
    """
    value = value_of(record)
    return Observation(
        number=record.config_id,
        values=record.values,
        state=record.state,
        metrics=None if value is None else (value,),
        step=record.steps,
        bad=record.failure is not None and record.failure.kind in BAD_REGION,
        length=record.steps if record.state is TrialState.FINISHED else steps_of(spec, record.values) or record.steps,
    )


def steps_of(spec: SweepSpec, values: Mapping[str, Any]) -> int | None:
    """Return the full length of a trial in steps, None where the configuration does not say."""
    if spec.program is not None:
        return spec.program.steps
    for place in (values, spec.set):
        if "trainer.steps" in place:
            return int(place["trainer.steps"])
    steps = (spec.base.get("trainer") or {}).get("steps")
    return None if steps is None else int(steps)
