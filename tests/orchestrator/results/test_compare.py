import dataclasses
import json
import math

import pytest
from rich.console import Console

from meanflow_core.errors import ConfigError
from orchestrator.results.comparison import compare, compare_table
from orchestrator.spec.settings import Metric
from orchestrator.trials.trial import Failure
from tests.orchestrator.example_sweep import METRIC, record, spec, trials


def group(key, values, **more):
    return [record(f"{key}.{i}" if i else f"{key}", value, seed=i, **more) for i, value in enumerate(values)]


def shown(found):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(compare_table(spec(), found))
    return capture.get()


def test_differences_of_the_swept_keys_and_what_is_the_same():
    a = record(1, 2.0, values={"optimizer.lr": 0.01, "model.depth": 4, "objective.time.mean": -0.4})
    b = record(2, 3.0, values={"optimizer.lr": 0.02, "model.depth": 4})
    found = compare(spec(), [a, b], "1", "2")
    assert found.to_json()["differences"] == [
        {"key": "optimizer.lr", "values": [0.01, 0.02]},
        {"key": "objective.time.mean", "values": [-0.4, None]},
    ]
    assert found.same == {"model.depth": 4}


def test_curves_are_means_over_seeds():
    a = record(1, 2.0, reports={500: {METRIC: 4.0}, 4500: {METRIC: 2.0}})
    a1 = record("1.1", 3.0, seed=1, reports={500: {METRIC: 6.0}, 4500: {METRIC: 3.0}})
    b = record(2, 5.0, reports={500: {METRIC: 7.0}}, steps=500, state="pruned")
    found = compare(spec(), [a, a1, b], "1", "2")
    assert found.to_json()["curve"] == [{"step": 500, "values": [5.0, 7.0]}, {"step": 4500, "values": [2.5, None]}]
    assert "different steps (4500 and 500)" in found.test.verdict
    assert found.test.better is None


def test_the_paired_difference_with_its_interval_and_p_value():
    from scipy import stats

    a, b = [1.0, 2.0, 3.0, 2.5], [1.5, 2.7, 3.4, 3.1]
    below_zero = record(3, -1.0, state="pruned", steps=500)  # so no ratio makes sense in this sweep
    found = compare(spec(), [*group(1, a), *group(2, b), below_zero], "2", "1").test
    want = stats.ttest_rel(b, a)
    assert found.p_value == pytest.approx(want.pvalue)
    assert found.difference == pytest.approx(0.55)
    assert found.ci95 == pytest.approx(list(want.confidence_interval(0.95)))
    assert found.better == "1"
    assert found.verdict == "Trial 1 is better: trial 2 is worse by 0.55 ± 0.21 (p=0.0034, 4 shared seeds)."


def test_a_metric_above_zero_is_compared_by_ratio():
    from scipy import stats

    bad, good = [6.9, 5.8, 13.0, 10.8], [3.4, 3.0, 3.4, 3.5]
    found = compare(spec(), [*group(1, good), *group(2, bad)], "2", "1").test
    logs = stats.ttest_1samp([math.log(x / y) for x, y in zip(bad, good, strict=True)], 0)
    assert found.p_value == pytest.approx(logs.pvalue)
    assert found.better == "1"
    assert found.difference == pytest.approx(5.8)  # still the mean of the differences
    assert found.verdict == "Trial 1 is better: trial 2 is 2.6 times worse [1.5, 4.4] (p=0.01, 4 shared seeds)."
    told = found.to_json()["effect"]
    assert (told["scale"], told["n"]) == ("ratio", 4)
    assert told["worse"] == pytest.approx(1 / 2.6084, rel=1e-4)  # the second against the first


def test_a_collapsed_seed_is_named_in_place_of_a_test_of_means():
    found = compare(spec(), [*group(1, [2.8, 2.6, 2.9]), *group(2, [2.4, 2.1, 87.0])], "1", "2")
    assert found.test.better is None
    assert found.test.verdict == (
        "No test of means: trial 2 is unstable, seed 2 collapsed (87); trial 1 is better on 1 of 3 shared seeds."
    )
    assert "2.1 to 87" in shown(found)
    assert "±" in shown(found)  # of trial 1


def test_maximising_turns_the_winner_around():
    both = [*group(1, [1.0, 2.0, 3.0]), *group(2, [2.0, 4.1, 5.9])]
    maximise = spec(metrics=(Metric(name=METRIC, goal="maximize"),))
    assert compare(maximise, both, "1", "2").test.better == "2"
    assert compare(spec(), both, "1", "2").test.better == "1"


@pytest.mark.parametrize(
    ("second", "want"),
    [
        (group(2, [1.1, 1.9, 3.2]), "Not separable with 3 seeds: trial 2 is 1.04 times worse ["),
        (group(2, [1.25]), "Trial 2 is 1.2 times worse on the one seed they share, which may be chance."),
        ([record(2, 1.25, seed=77)], "No comparison: the two share no seed."),
        ([record(2, None, state="failed", failure=Failure("oom", "out"))], "trial 2 has no result (oom: out)"),
        ([record(2, None, state="running", steps=0)], "trial 2 has no result (running)"),
    ],
)
def test_the_verdict_says_how_sure_it_is(second, want):
    assert want in compare(spec(), [*group(1, [1.0, 2.0, 3.0]), *second], "1", "2").test.verdict


def test_a_replicate_stands_for_its_configuration():
    both = [*group(1, [1.0, 2.0]), *group(2, [3.0, 5.0])]
    assert compare(spec(), both, "1.1", "2") == compare(spec(), both, "1", "2")


def test_unknown_trials_and_twins_are_refused():
    both = [*group(10, [1.0, 2.0]), *group(2, [3.0, 5.0])]
    with pytest.raises(ConfigError, match="no such trial") as caught:
        compare(spec(), both, "10.2", "9")
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].nearest in ("10", "10.1")
    with pytest.raises(ConfigError, match="same configuration"):
        compare(spec(), both, "10", "10.1")


def test_text_and_json_of_a_whole_sweep():
    found = compare(spec(), trials(), "22", "14")
    assert json.loads(json.dumps(found.to_json()))["trials"][0]["n"] == 4
    text = shown(found)
    assert max(map(len, text.splitlines())) <= 100
    assert "optimizer.lr" in text
    assert "at step 4500" in text
    assert "Trial 22 is better: trial 14 is 1.08 times worse [" in text
    many = dataclasses.replace(found, curve={step: (1.0, 2.0) for step in range(1, 101)})
    lines = [line for line in shown(many).splitlines() if "at step" in line]
    assert len(lines) <= 12
    assert "at step 100 " in lines[-1]
