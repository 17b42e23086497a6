import json

import pytest
from rich.console import Console

from orchestrator.engine import control
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.results.choice import steps_of
from orchestrator.results.sweep_status import expected_trials, status, status_of, status_table, time_left
from orchestrator.search import METHODS
from orchestrator.search.rules.asha import Asha
from orchestrator.space.search_space import Space
from orchestrator.spec.settings import Budget
from orchestrator.trials.trial import Failure
from tests.orchestrator import toy
from tests.orchestrator.example_sweep import record, spec, trials
from tests.orchestrator.simulation import run


def shown(found):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(status_table(found))
    return capture.get()


def test_the_json_carries_the_contract():
    found = json.loads(json.dumps(status(spec(), trials(), state="finished", wall_seconds=1800.0).to_json()))
    assert {"sweep", "state", "trials", "best", "budget"} <= found.keys()
    assert (found["sweep"], found["state"]) == ("digits-guidance", "finished")
    counts = found["trials"]
    assert {"running", "finished", "pruned", "failed", "waiting"} <= counts.keys()
    assert counts["finished"] + counts["pruned"] + counts["failed"] == 24 + 9
    assert counts["failed"] == 4
    assert (counts["total"], counts["left"]) == (33, 0)
    assert found["best"]["trial"] == "22"
    assert found["best"]["n"] == 4


def test_the_budget_sums_every_trial():
    some = [record(1, 2.0, gpu_seconds=3600.0), record("1.1", 2.1, seed=1, gpu_seconds=1800.0)]
    some.append(
        record(2, None, state="failed", failure=Failure("lost", "node"), gpu_seconds=900.0, wasted_seconds=60.0)
    )
    found = status(spec(), some, wall_seconds=120.0)
    assert found.to_json()["budget"] == {
        "gpu_hours": {"used": 1.75, "limit": 40.0},
        "wall_clock": {"used": 120.0, "limit": 43200.0},
        "trials": {"used": 3, "limit": None},
    }
    assert found.wasted_seconds == 60.0
    assert "1m of work lost" in shown(found)


def test_the_time_left_allows_for_those_who_will_be_promoted():
    rule = Asha(min_iter=500, eta=3, promote=True)
    sweep = spec(early_terminate=rule, run_cap=3, replicates=None)
    some = [record(0, 2.0, state="at-rung", steps=500, busy_seconds=20.0)]
    some.append(record(1, None, state="running", steps=0, busy_seconds=0.0))
    found = status(sweep, some, state="running")
    assert (found.counts["at-rung"], found.counts["running"]) == (1, 1)
    assert "0 of 3 ended, 1 running, 1 at-rung" in shown(found)
    # three come to step 500, one of them to 1500 and to 4500: 5500 steps, of which 500 took 20 s
    assert found.eta_seconds == pytest.approx(5000 * 20 / 500)
    assert status(sweep, some[1:], state="running").eta_seconds is None
    ended = [record(0, 2.0), *(record(key, 3.0, state="pruned", steps=500, busy_seconds=1.0) for key in (1, 2))]
    assert status(sweep, ended, state="finished").eta_seconds == 0


def test_the_time_left_is_the_remaining_work_on_what_runs_now():
    some = [
        record(1, 1.0, busy_seconds=100.0),
        record(2, 2.0, state="pruned", steps=500, busy_seconds=50.0),
        record(3, None, state="running", busy_seconds=25.0),
        record(4, None, state="running", busy_seconds=200.0),
        record(5, None, state="waiting", busy_seconds=0.0),
    ]
    # mean 75: 28 trials to come, 50 left of trial 3, none of trial 4, 75 of trial 5; two at once
    assert status(spec(), some, state="running").eta_seconds == pytest.approx((28 * 75 + 50 + 75) / 2)
    assert status(spec(), some, state="running", concurrency=4).eta_seconds == pytest.approx((28 * 75 + 125) / 4)
    near_limit = status(spec(), some, state="running", wall_seconds=43190.0)
    assert near_limit.eta_seconds == pytest.approx(10.0)


def test_the_time_left_is_unknown_before_a_trial_has_ended():
    assert status(spec(), [record(1, None, state="running")], state="running").eta_seconds is None


def test_a_stopped_sweep_expects_no_more_trials():
    found = status(spec(), [record(1, 1.0)], state="stopped")
    assert (found.left, found.total, found.eta_seconds) == (0, 1, 0.0)
    assert "time left" not in shown(found)


def test_a_grid_knows_its_size():
    by_name = {parameter.name: parameter for parameter in spec().space.parameters}
    names = ("objective.time.law", "objective.guidance.kappa")
    grid = Space(parameters=tuple(by_name[name] for name in names))
    assert expected_trials(spec(method=METHODS["grid"], space=grid, run_cap=None, replicates=None)) == 8
    assert expected_trials(spec(method=METHODS["grid"], space=grid, run_cap=5, replicates=None)) == 5
    assert expected_trials(spec(run_cap=None, replicates=None)) is None
    assert expected_trials(spec(budget=Budget(trials=30))) == 30


def test_the_length_of_a_trial_may_be_swept():
    assert steps_of(spec(), {}) == 4500
    assert steps_of(spec(), {"trainer.steps": 100}) == 100
    assert steps_of(spec(set={}, base={"trainer": {"steps": 70}}), {}) == 70
    assert steps_of(spec(set={}, base={}), {}) is None


def test_the_text_says_what_matters():
    text = shown(status(spec(), trials(), state="finished", wall_seconds=1800.0))
    assert "33 of 33 ended" in text
    assert "4 failed" in text
    assert "2.43 ± 0.11 (trial 22, 4 seeds)" in text
    assert "30m of wall clock (limit 12h)" in text
    assert "scale 1.94" in text
    assert "no result yet" in shown(status(spec(), []))
    early = shown(status(spec(), [record(1, 7.0, state="pruned", steps=500)]))
    assert "7 (trial 1, pruned at step 500)" in early


def test_a_sweep_that_was_extended_after_its_end_has_trials_left(tmp_path):
    home = Home(tmp_path)
    run(home, toy.sweep(run_cap=2))
    paths = home.sweep("toy")
    assert status_of(Ledger.open(paths)).left == 0
    control.request(paths, control.extend(3))
    found = status_of(Ledger.open(paths))
    assert (found.state, found.left, found.total) == ("stopped", 3, 5)


def test_the_time_left_counts_what_comes_on_top_of_the_work():
    trials = [record(number, 1.0) for number in range(4)]  # a minute of work each
    asked = {"left": 6, "concurrency": 2}
    assert time_left(spec(), trials, **asked) == 6 * 60 / 2
    assert time_left(spec(), trials, **asked, wall_seconds=480.0) == 6 * 60 * 480 / 240
