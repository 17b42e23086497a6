"""Whether the rungs of a sweep predicted its end: said in numbers, warned of, and with a proposal."""

from __future__ import annotations

import pytest

from orchestrator.results.findings import notes
from orchestrator.results.leaderboard_rows import leaderboard
from orchestrator.results.parameter_importance import importance
from orchestrator.results.rung_audit import audit_rungs, audit_steps, audit_warnings
from orchestrator.results.sweep_status import status
from orchestrator.trials.trial import TrialState
from tests.orchestrator.example_sweep import METRIC, record, spec


def trial(key: int, late: float, **early: float):
    """A finished trial; its values at the rungs as `at_500=...`, all later ones following its last value."""
    reports = {int(name.partition("_")[2]): {METRIC: value} for name, value in early.items()}
    return record(key, late, reports={**reports, 4500: {METRIC: late}})


def misleading(count: int = 12):
    """Step 500 tells the bad half from the good one and turns the good half round; step 1500 is right."""
    half = count // 2
    good = [trial(i, 1.0 + i, at_500=50.0 - i, at_1500=10.0 + i) for i in range(half)]
    return good + [trial(i, 1.0 + i, at_500=100.0 + i, at_1500=10.0 + i) for i in range(half, count)]


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_a_rung_is_judged_by_the_order_that_it_predicted(sign: int, expected: float):
    trials = [trial(i, float(i * i), at_500=float(sign * i)) for i in range(1, 7)]
    (found,) = audit_steps(spec(), trials, [500, 1500])
    assert (found.step, found.correlation, found.trials, found.better_half) == (500, expected, 6, None)
    assert audit_steps(spec(), trials[:4], [500]) == []


def test_the_better_half_is_judged_by_itself():
    first, second = audit_rungs(spec(), misleading())
    assert (first.step, second.step) == (500, 1500)
    assert first.correlation > 0.5
    assert first.better_half == pytest.approx(-1.0)
    assert second.better_half == pytest.approx(1.0)
    assert (first.misleads, second.misleads) == (True, False)
    assert str(first).startswith("step 500: 0.7")
    assert str(first).endswith("(12 trials; -1.00 over the better half)")


def test_where_the_larger_value_is_better_the_better_half_is_the_larger_one():
    metrics = (spec().metric.__class__(name=METRIC, goal="maximize"),)
    turned = [trial(i, -t.metric, at_500=-t.reports[500][METRIC]) for i, t in enumerate(misleading())]
    (found,) = audit_steps(spec(metrics=metrics), turned, [500])
    assert found.better_half == pytest.approx(-1.0)


def test_a_rung_that_misleads_is_warned_of_with_the_first_step_that_does_not():
    (text,) = audit_warnings(spec(), misleading())
    assert "rung at step 500 misleads" in text
    assert "have the first rung at step 1500" in text
    trials = misleading()
    assert status(spec(), trials).warnings == (text,)
    assert [entry["step"] for entry in status(spec(), trials).to_json()["rungs"]] == [500, 1500]
    rows = leaderboard(spec(), trials)
    assert text in list(notes(spec(), trials, rows, importance(spec(), trials, resamples=5)))


def test_where_no_step_agrees_the_proposal_is_to_stop_nobody():
    trials = [trial(i, 1.0 + i, at_500=50.0 - i, at_1500=30.0 - i) for i in range(12)]
    assert all("type: none" in text for text in audit_warnings(spec(), trials))
    assert len(list(audit_warnings(spec(), trials))) == 2


def test_stopped_trials_and_replicates_tell_nothing():
    trials = [record(i, 1.0, state=TrialState.PRUNED, steps=500, reports={500: {METRIC: 1.0}}) for i in range(20)]
    assert audit_rungs(spec(), trials) == []
