"""The Gaussian process over learning curves: what it knows, what it does not mix up, and what gp draws from it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from orchestrator.search.curve_model import ROWS, CurveModel, encoded, rows_of
from orchestrator.search.draws import Observation
from orchestrator.trials.trial import TrialState
from tests.orchestrator import toy

LENGTH, STEPS = 800, (100, 400, 800)
PARAMETERS: dict[str, Any] = {"x": {"min": 0.0, "max": 1.0, "distribution": "uniform"}}


def curve(x: float) -> dict[int, float]:
    """Small x falls fast and stays high; the best at the end is 0.7, which looks bad at step 100."""
    end = math.exp(4 * (x - 0.7) ** 2)
    return {100: end * math.exp(2 * x), 400: end * math.exp(0.5 * x), 800: end}


def seen(number: int, x: float, until: int = LENGTH, **more: Any) -> Observation:
    reports = {step: value for step, value in curve(x).items() if step <= until}
    state = TrialState.FINISHED if until == LENGTH else TrialState.PRUNED
    arrivals = {step: 3 * number + at for at, step in enumerate(reports)}
    last = (reports[max(reports)],) if reports else None
    fields = {"step": until, "reports": reports, "arrivals": arrivals, "length": LENGTH} | more
    return Observation(number, {"x": x}, fields.pop("state", state), last, **fields)


def space() -> Any:
    return toy.spec(toy.sweep(parameters=PARAMETERS)).space


def test_it_tells_the_end_of_a_trial_that_it_has_seen_to_its_end() -> None:
    model = CurveModel(space(), "minimize", [seen(i, (i + 0.5) / 8) for i in range(8)])
    means, spreads = model.at_the_end([{"x": 0.3}, {"x": 0.7}])
    assert [model.metric(float(mean)) for mean in means] == pytest.approx([curve(0.3)[800], curve(0.7)[800]], rel=0.05)
    assert (spreads < 0.3).all()


def test_a_trial_that_was_stopped_early_is_not_taken_for_a_finished_one() -> None:
    """Those near the best end were stopped at step 100, where they had the worst values of all."""
    known = [seen(i, (i + 0.5) / 12, until=100 if 0.55 < (i + 0.5) / 12 < 0.9 else LENGTH) for i in range(12)]
    model = CurveModel(space(), "minimize", known)
    (mean,), _ = model.at_the_end([{"x": 0.7}])
    assert known[8].metrics is not None
    assert model.metric(float(mean)) < 1.5 < known[8].metrics[0]


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_a_trial_that_diverged_is_as_bad_as_anything_seen(goal: str) -> None:
    bad = seen(8, 0.05, until=0, state=TrialState.FAILED, bad=True)
    known = [seen(i, 0.4 + i / 16) for i in range(8)]
    with_it, without = (CurveModel(space(), goal, [*known, *more]) for more in ([bad], []))
    (worse,), _ = with_it.at_the_end([{"x": 0.05}])
    (free,), _ = without.at_the_end([{"x": 0.05}])
    assert worse > free if goal == "maximize" else worse > with_it.at_the_end([{"x": 0.7}])[0][0] + 1
    worst = max(v for trial in known for v in trial.reports.values())
    if goal == "minimize":
        assert with_it.metric(float(worse)) == pytest.approx(worst, rel=0.4)


def test_values_that_are_not_positive_are_modelled_as_they_are() -> None:
    known = [Observation(i, {"x": i / 8}, TrialState.FINISHED, (-1.0 - i,), LENGTH, length=LENGTH) for i in range(8)]
    model = CurveModel(space(), "minimize", known)
    (mean,), _ = model.at_the_end([{"x": 0.5}])
    assert model.metric(float(mean)) == pytest.approx(-5.0, abs=0.5)


def test_of_a_long_sweep_it_is_given_the_last_report_of_every_trial() -> None:
    chance = random.Random(0)
    known = [seen(i, chance.random(), until=chance.choice(STEPS)) for i in range(250)]
    rows = rows_of(known)
    assert len(rows) == ROWS
    assert {(trial.number, trial.step) for trial in known} <= {(trial.number, step) for trial, step, _ in rows}
    order = [trial.arrivals[step] for trial, step, _ in rows]
    assert order == sorted(order)


def test_an_absent_parameter_and_a_category_have_places_of_their_own() -> None:
    parameters = {
        "x": {"values": ["a", "b"]},
        "y": {"min": 0.0, "max": 4.0, "when": {"x": "b"}, "distribution": "uniform"},
    }
    there = toy.spec(toy.sweep(parameters=parameters)).space
    half = math.sqrt(0.5)
    assert encoded(there, {"x": "a"}) == [half, 0.0, 0.5]
    assert encoded(there, {"x": "b", "y": 1.0}) == [0.0, half, 0.25]


def test_gp_goes_where_the_end_is_expected_to_be_best_and_not_where_trials_begin_best() -> None:
    search = toy.search(toy.sweep(method="gp", run_cap=40, parameters=PARAMETERS))
    known = [
        seen(i, x, until=LENGTH if i % 2 else 100) for i, x in enumerate((0.05, 0.2, 0.35, 0.5, 0.62, 0.8, 0.9, 0.97))
    ]
    draws = [search.draw(position, known, lambda values: True) for position in range(20, 26)]
    assert all(0.55 < draw.values["x"] < 0.85 for draw in draws)
    forecast = search.forecast(known)
    assert min(forecast, key=lambda number: forecast[number]) in (4, 5)
    assert min(known, key=lambda trial: curve(trial.values["x"])[100]).number < 4
    assert search.forecast(known[:3]) == {}


def test_gp_keeps_away_from_what_is_running() -> None:
    search = toy.search(toy.sweep(method="gp", run_cap=40, parameters=PARAMETERS))
    known = [seen(i, x) for i, x in enumerate((0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 1.0))]
    draw = search.draw(20, known, lambda values: True)
    running = Observation(8, draw.values, TrialState.RUNNING, None, length=LENGTH)
    other = search.draw(20, [*known, running], lambda values: True)
    assert abs(other.values["x"] - draw.values["x"]) > 0.01
