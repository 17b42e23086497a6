import pytest

from orchestrator.results.findings import notes, verdict
from orchestrator.results.leaderboard_rows import leaderboard
from orchestrator.results.parameter_importance import Importance, Share, importance
from orchestrator.spec.settings import Metric
from orchestrator.trials.trial import Failure
from tests.orchestrator.example_sweep import METRIC, record, spec, trials


def group(key, values, **more):
    return [record(f"{key}.{i}" if i else f"{key}", value, seed=i, **more) for i, value in enumerate(values)]


def said(some, spec_=None, **importances):
    spec_ = spec_ or spec()
    shares = tuple(Share(name, share, low, high) for name, (share, low, high) in importances.items())
    found = Importance(sweep=spec_.name, metric=METRIC, trials=len(some), best=5, shares=shares)
    return verdict(spec_, leaderboard(spec_, some), found), list(notes(spec_, some, leaderboard(spec_, some), found))


@pytest.mark.parametrize(
    ("some", "want"),
    [
        ([], "No trial has run yet."),
        ([record(1, None, state="failed", failure=Failure("oom", "out"))], "Every trial so far has failed."),
        (
            [record(1, None, state="running", steps=0), record(2, None, state="failed", failure=Failure("bug", "x"))],
            "No trial has a result yet.",
        ),
        (
            [record(1, 7.0, state="running", steps=500), record(2, 9.0, state="pruned", steps=400)],
            "No trial has finished yet; trial 1 has got furthest, with eval/fid_1nfe 7 at step 500.",
        ),
        ([record(1, 2.0)], "Trial 1 is best, with eval/fid_1nfe 2; no other one has finished."),
        (
            [record(1, 2.0), record(2, 3.0)],
            "Trial 1 is best, with eval/fid_1nfe 2, ahead of trial 2 (3); with one seed each that may be chance.",
        ),
        (
            [*group(1, [1.0, 2.0, 3.0]), *group(2, [1.1, 1.95, 3.2]), *group(3, [9.0, 9.9, 11.1])],
            "but with 3 shared seeds it is not separable from trial 2, which is 1.05 times worse [0.90, 1.22].",
        ),
        (
            [*group(1, [1.0, 2.0, 3.0]), *group(2, [2.0, 4.02, 5.98])],
            "over 3 seeds; the runner-up, trial 2, is 2.00 times worse [1.98, 2.02] (p<0.001).",
        ),
    ],
)
def test_the_sentence_says_how_sure_the_best_one_is(some, want):
    assert want in said(some)[0]


def test_several_metrics_speak_of_the_front():
    metrics = (Metric(name=METRIC), Metric(name="eval/accuracy", goal="maximize"))
    points = {1: (1.0, 0.2), 2: (2.0, 0.9), 3: (2.5, 0.8)}
    some = [record(k, a, reports={4500: {METRIC: a, "eval/accuracy": b}}) for k, (a, b) in points.items()]
    text, _ = said(some, spec(metrics=metrics))
    assert text.startswith("2 configurations form the Pareto front")
    assert "trials 1 and 2" in text


def test_what_matters_is_said_with_its_doubt():
    sure = {"optimizer.lr": (0.7, 0.5, 0.9), "model.depth": (0.3, 0.1, 0.5)}
    assert (
        "optimizer.lr matters most (70% of the importance, between 50% and 90%)." in said([record(1, 1.0)], **sure)[0]
    )
    unsure = {"optimizer.lr": (0.5, 0.1, 0.9), "model.depth": (0.4, 0.1, 0.9)}
    assert "optimizer.lr seems to matter most" in said([record(1, 1.0)], **unsure)[0]


def test_a_best_value_at_the_end_of_its_range_is_noted_where_it_matters():
    high = record(1, 1.0, values={"optimizer.lr": 2.95e-3, "objective.weight.power": 0.02})
    _, found = said([high], **{"optimizer.lr": (0.9, 0.8, 1.0), "objective.weight.power": (0.01, 0.0, 0.1)})
    assert [note for note in found if "range" in note] == [
        "The best lr, 0.00295, lies at the upper end of its range (1e-4 to 0.003): better values may lie beyond it."
    ]
    middle = record(1, 1.0, values={"optimizer.lr": 6e-4, "objective.weight.power": 1.0})
    assert not [note for note in said([middle])[1] if "range" in note]


def test_what_limits_the_verdict_is_noted():
    some = [
        record("1", 1.0, labels={"drift": ["torch: 2.7 -> 2.8"]}),
        record("1.1", None, state="failed", seed=1, failure=Failure("lost", "the node left")),
        record("2", 2.0, labels={"reused": {"sweep": "old", "trial": "3"}}),
        record("3", None, state="running", steps=0),
        record("4", None, state="failed", failure=Failure("oom", "out")),
        record("5", None, state="failed", failure=Failure("oom", "out")),
    ]
    text = "\n".join(said(some)[1])
    assert "1 trial has not ended" in text
    assert "Another seed of trial 1 failed" in text
    assert "2 of 5 configurations failed" in text
    assert "1 trial ran in another environment than the sweep's: 1." in text
    assert "1 trial took over the result of an equal configuration: 2." in text
    assert "One seed a configuration" in text


def test_a_better_configuration_with_a_collapsed_seed_is_named_with_the_reason_that_it_does_not_lead():
    text, more = said([*group(1, [2.8, 2.6, 2.9]), *group(2, [2.4, 2.1, 87.0])])
    assert text.startswith("Trial 1 is best, with eval/fid_1nfe 2.77 ± 0.38 over 3 seeds; no other stable one has fin")
    assert text.endswith("Trial 2 has the better median (2.4), but it is unstable: seed 2 collapsed (87).")
    assert "unstable" not in "".join(more)


def test_an_unstable_configuration_that_would_not_lead_is_noted():
    text, more = said([*group(1, [2.8, 2.6, 2.9]), *group(2, [3.4, 3.1, 87.0])])
    assert "unstable" not in text
    assert "Trial 2 is unstable: seed 2 collapsed (87)." in "".join(more)


def test_where_every_configuration_is_unstable_the_verdict_says_so_of_the_best():
    text, _ = said(group(2, [2.4, 2.1, 87.0]))
    assert (
        text == "Trial 2 is best, with eval/fid_1nfe 2.1 to 87 over 3 seeds, but it is unstable: seed 2 collapsed (87)."
    )


def test_the_whole_example_in_one_go():
    every = trials()
    rows, found = leaderboard(spec(), every), importance(spec(), every, resamples=20)
    text = verdict(spec(), rows, found)
    assert text.startswith(
        "Trial 22 is best, with eval/fid_1nfe 2.43 ± 0.11 over 4 seeds; the runner-up, trial 14, is 1.08 "
    )
    assert not [note for note in notes(spec(), every, rows, found) if "One seed" in note]
