"""A sweep as a study of Optuna, in memory: for Optuna's evaluators and plots, and for people who know those."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.space import Parameter
from orchestrator.trials import TrialRecord, TrialState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from orchestrator.spec import SweepSpec


def study_of(spec: SweepSpec, trials: Sequence[TrialRecord]) -> Study:
    """Return the search of a sweep as an Optuna study, for Optuna's own plots and importances.

    Parameters have their natural values and their dotted keys; trials have their states, the ranking metric at each
    report (with one metric: Optuna knows no others), their times, and `trial`, `seed` and `config_hash` as
    attributes. Replicates are left out: in Optuna's eyes they would be more draws of the search.

    Args:
        spec: the sweep.
        trials: every trial of its ledger.
    """
    searched = [trial for trial in trials if not trial.replicate]
    laws = distributions_of(spec, searched)
    return _study([metric.goal for metric in spec.metrics], [_frozen(spec, laws, trial) for trial in searched])


def _frozen(spec: SweepSpec, laws: Mapping[str, BaseDistribution], record: TrialRecord) -> FrozenTrial:
    from optuna.trial import TrialState as Native
    from optuna.trial import create_trial

    names = [metric.name for metric in spec.metrics]
    values = record.scores(names)
    complete = Native.COMPLETE if all(map(math.isfinite, values)) else Native.FAIL
    ended = {TrialState.FINISHED: complete, TrialState.PRUNED: Native.PRUNED, TrialState.FAILED: Native.FAIL}
    state = ended.get(record.state, Native.RUNNING)
    curve = {step: report[names[0]] for step, report in record.reports.items() if names[0] in report}
    frozen = create_trial(
        state=state,
        params={name: _label(value) for name, value in record.values.items()},
        distributions={name: laws[name] for name in record.values},
        values=values if state is Native.COMPLETE else None,
        intermediate_values=curve if len(names) == 1 else None,
        user_attrs={"trial": record.id, "seed": record.seed, "config_hash": record.config_hash},
    )
    frozen.datetime_start = datetime.fromtimestamp(record.started)
    frozen.datetime_complete = datetime.fromtimestamp(record.ended) if state.is_finished() and record.ended else None
    if state.is_finished() and frozen.datetime_complete is None:
        frozen.datetime_complete = frozen.datetime_start
    return frozen


def rebuild_study(
    records: Sequence[TrialRecord],
    distributions: Mapping[str, BaseDistribution],
    value: Callable[[TrialRecord], float],
    goal: Literal["minimize", "maximize"] = "minimize",
) -> Study:
    """Return an Optuna study in memory in which every record is a completed trial.

    Args:
        records: the trials, in the order they get their numbers.
        distributions: of `distributions_of`; keys that are not among them are left out.
        value: what a trial's objective value is.
        goal: `minimize` or `maximize`.
    """
    from optuna.trial import create_trial

    frozen = []
    for record in records:
        known = {name: setting for name, setting in record.values.items() if name in distributions}
        frozen.append(
            create_trial(
                params={name: _label(setting) for name, setting in known.items()},
                distributions={name: distributions[name] for name in known},
                value=value(record),
            )
        )
    return _study([goal], frozen)


def _study(goals: Sequence[Literal["minimize", "maximize"]], frozen: Sequence[FrozenTrial]) -> Study:
    import optuna
    from optuna.study import StudyDirection

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # "a new study created in memory" concerns no user
    try:
        study = optuna.create_study(directions=[StudyDirection[goal.upper()] for goal in goals])
        study.add_trials(frozen)
    finally:
        optuna.logging.set_verbosity(level)
    return study


def distributions_of(spec: SweepSpec, records: Sequence[TrialRecord]) -> dict[str, BaseDistribution]:
    """Return key -> Optuna's distribution in natural units, wide enough for every value the records have.

    Values may lie outside the present space: of an earlier revision of the sweep, or of an unbounded distribution.
    """
    parameters = {key: parameter for parameter in spec.space.parameters for key in parameter.keys}
    names = dict.fromkeys(name for record in records for name in record.values)
    return {
        name: _distribution(parameters.get(name), [record.values[name] for record in records if name in record.values])
        for name in names
    }


def _distribution(parameter: Parameter | None, seen: Sequence[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in seen)
    listed = parameter is None or bool(parameter.choices)
    if listed or not numeric:
        choices = list(parameter.choices) if parameter is not None and not parameter.members else []
        labels = dict.fromkeys(_label(value) for value in [*choices, *seen])
        return CategoricalDistribution(list(labels))
    assert parameter is not None
    ends = [end for end in (parameter.low, parameter.high) if end is not None]
    low, high = min([*ends, *seen]), max([*ends, *seen])
    return FloatDistribution(float(low), float(high), log=parameter.log and low > 0)


def _label(value: Any) -> Any:
    """Return a value that Optuna can hold as a choice."""
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)
