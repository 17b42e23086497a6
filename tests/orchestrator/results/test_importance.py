import json
import random

import pytest
from rich.console import Console

from orchestrator.results.parameter_importance import importance, importance_table
from orchestrator.results.studies import distributions_of, rebuild_study
from orchestrator.trials.trial import Failure
from tests.orchestrator.example_sweep import record, spec, trials


def shown(found):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(importance_table(spec(), found))
    return capture.get()


def made(metric, n=40, seed=1, **more):
    """Trials of three numbers a, b, c in (0, 1), whose metric is a function of them."""
    rng = random.Random(seed)
    some = []
    for number in range(1, n + 1):
        values = {name: rng.random() for name in ("objective.weight.power", "optimizer.lr", "objective.guidance.scale")}
        some.append(record(number, metric(values), values=values, **more))
    return some


def ranking(found):
    return [row.parameter for row in found.shares]


def test_the_parameter_that_decides_comes_first_and_the_shares_add_up():
    found = importance(spec(), made(lambda v: 10 * (v["optimizer.lr"] - 0.4) ** 2 + 0.01 * v["objective.weight.power"]))
    assert ranking(found)[0] == "optimizer.lr"
    shares = [row.importance for row in found.shares]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > 0.6
    assert all(row.low <= row.high for row in found.shares)
    assert found.message is None
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_a_trial_stopped_early_with_a_good_value_does_not_count_as_good():
    # The stopped half has lr > 0.5 and values of an early rung that look better than any finished one.
    finished = [r for r in made(lambda v: 1.0 + v["optimizer.lr"], n=60) if r.values["optimizer.lr"] < 0.5]
    stopped = [
        r for r in made(lambda v: 0.1, n=60, seed=2, state="pruned", steps=500) if r.values["optimizer.lr"] > 0.5
    ]
    stopped = [record(i, r.metric, values=r.values, state="pruned", steps=500) for i, r in enumerate(stopped, 100)]
    found = importance(spec(), [*finished, *stopped])
    assert found.trials == len(finished) + len(stopped)
    assert ranking(found)[0] == "optimizer.lr"


def test_what_makes_training_diverge_counts():
    some = []
    for one in made(lambda v: 1.0 + 0.01 * v["objective.weight.power"], n=40):
        if one.values["optimizer.lr"] > 0.3:
            failure = Failure("diverged", "the loss is nan")
            one = record(one.id, None, values=one.values, state="failed", failure=failure)
        some.append(one)
    assert ranking(importance(spec(), some))[0] == "optimizer.lr"
    assert importance(spec(), some).trials == 40


def test_conditional_parameters_and_replicates_are_understood():
    found = importance(spec(), trials())
    assert set(ranking(found)) == set(spec().space.names)
    assert ranking(found)[0] == "optimizer.lr"
    assert found.trials == 21  # 24 configurations, of which three failed for reasons of the machine or the code


@pytest.mark.parametrize(
    ("some", "want"),
    [
        (made(lambda v: v["optimizer.lr"], n=9), "needs 10 configurations with a result; this sweep has 9"),
        ([], "this sweep has 0 configurations"),
        ([record(i, float(i), values={"optimizer.lr": 1e-3}) for i in range(20)], "the same values"),
    ],
)
def test_too_little_to_say_anything_is_said(some, want):
    found = importance(spec(), some)
    assert found.shares == ()
    assert want in found.message
    assert want in shown(found)


def test_equal_input_gives_equal_output():
    assert importance(spec(), trials(), resamples=5) == importance(spec(), trials(), resamples=5)


def test_the_text_shows_shares_with_intervals():
    text = shown(importance(spec(), trials()))
    assert text.splitlines()[2].split()[0] == "lr"
    assert "90 % interval" in text
    assert "21 configurations, of which 5 count as the best" in " ".join(text.split())


def test_distributions_hold_every_value_even_from_outside_the_space():
    some = [
        record(1, 1.0, values={"optimizer.lr": 5e-5, "objective.guidance.kappa": 0.7, "model.dropout": 0.1}),
        record(2, 2.0, values={"optimizer.lr": 1e-3, "objective.time.law": "uniform", "ema.decays": [0.9]}),
    ]
    found = distributions_of(spec(), some)
    assert (found["optimizer.lr"].low, found["optimizer.lr"].high, found["optimizer.lr"].log) == (5e-5, 3e-3, True)
    assert found["objective.guidance.kappa"].choices == (0.0, 0.5, 0.8, 0.9, 0.7)
    study = rebuild_study(some, found, lambda r: r.metric)
    assert [trial.value for trial in study.trials] == [1.0, 2.0]
    assert study.trials[1].params["ema.decays"] == "[0.9]"
