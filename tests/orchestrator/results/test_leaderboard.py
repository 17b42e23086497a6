import json
import math

import numpy as np
import pytest
from rich.console import Console

from orchestrator.results.leaderboard_rows import leaderboard
from orchestrator.results.leaderboard_text import leaderboard_table
from orchestrator.spec.settings import Metric
from orchestrator.trials.trial import Failure
from tests.orchestrator.example_sweep import METRIC, record, spec, trials

CONTRACT = ["rank", "trial", "state", "metric", "mean", "ci95", "n", "steps", "config", "run_id", "checkpoint"]


def ids(rows):
    return [row.trial for row in rows]


def diverged(key, **more):
    return record(key, None, state="failed", failure=Failure("diverged", "the loss is nan"), **more)


def shown(spec_, rows, width=100, **more):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - written to by rich only
    with console.file:
        console.print(leaderboard_table(spec_, rows, width=width, **more))
        return console.export_text()


def test_rows_carry_the_contract_and_only_the_swept_keys():
    rows = leaderboard(spec(), [record(1, 2.0, values={"optimizer.lr": 0.01}, checkpoint="c/1")], {"1": "run-a"})
    (row,) = json.loads(json.dumps([row.to_json() for row in rows]))
    assert list(row)[: len(CONTRACT)] == CONTRACT
    assert row == row | {
        "rank": 1,
        "trial": "1",
        "state": "finished",
        "metric": 2.0,
        "mean": 2.0,
        "ci95": None,
        "n": 1,
        "steps": 4500,
        "config": {"optimizer.lr": 0.01},
        "run_id": "run-a",
        "checkpoint": "c/1",
    }


@pytest.mark.parametrize(("goal", "want"), [("minimize", ["2", "3", "1"]), ("maximize", ["1", "3", "2"])])
def test_best_first_for_either_goal(goal, want):
    metrics = (Metric(name=METRIC, goal=goal),)
    rows = leaderboard(spec(metrics=metrics), [record(1, 5.0), record(2, 1.0), record(3, 3.0)])
    assert ids(rows) == want
    assert [row.rank for row in rows] == [1, 2, 3]


def test_a_pruned_trial_never_outranks_a_finished_one():
    some = [
        record(1, 9.0),
        record(2, 0.5, state="pruned", steps=500),
        record(3, 7.0, state="pruned", steps=1500),
        record(4, 6.0, state="running", steps=1500),
        record(5, None, state="waiting", steps=0),
    ]
    rows = leaderboard(spec(), some)
    assert ids(rows) == ["1", "4", "3", "2", "5"]
    assert [row.rank for row in rows] == [1, 2, 3, 4, None]


def test_a_diverged_trial_ranks_last_and_never_wins():
    rows = leaderboard(spec(), [diverged(1, reports={500: {METRIC: 0.001}}), record(2, 40.0), diverged(3)])
    assert ids(rows) == ["2", "1", "3"]
    assert [(row.rank, row.metric) for row in rows[1:]] == [(None, None)] * 2
    assert rows[1].to_json()["failure"] == {"kind": "diverged", "reason": "the loss is nan"}


def test_nothing_wins_when_everything_failed():
    assert [row.rank for row in leaderboard(spec(), [diverged(1), diverged(2)])] == [None, None]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_has_no_rank(value):
    rows = leaderboard(spec(), [record(1, value), record(2, 3.0)])
    assert ids(rows) == ["2", "1"]
    assert rows[1].rank is None
    assert json.dumps(rows[1].metric) == "null"


def test_the_seeds_of_a_configuration_are_one_row_with_mean_and_interval():
    from scipy import stats

    values = [2.0, 2.5, 3.0, 1.5]
    some = [record("1", values[0])] + [record(f"1.{i}", values[i], seed=10 + i) for i in (1, 2, 3)]
    (row,) = leaderboard(spec(), some)
    low, high = stats.t.interval(0.95, 3, loc=2.25, scale=stats.sem(values))
    assert (row.trial, row.metric, row.mean, row.n) == ("1", 2.0, 2.25, 4)
    assert row.ci95 == pytest.approx([low, high])
    assert row.seeds == {0: 2.0, 11: 2.5, 12: 3.0, 13: 1.5}


def test_a_lucky_first_seed_loses_to_a_better_mean():
    some = [record("1", 1.0), record("1.1", 5.0, seed=1), record("1.2", 6.0, seed=2)]
    some += [record("2", 1.2), record("2.1", 1.4, seed=1), record("2.2", 1.3, seed=2)]
    rows = leaderboard(spec(), some)
    assert ids(rows) == ["2", "1"]
    assert [row.mean for row in rows] == pytest.approx([1.3, 4.0])


def test_a_single_seed_is_compared_on_the_seed_it_shares():
    # Seeds 1 and 2 are harder for everybody: the mean of 1 is worse than the one value of 3, which lost on seed 0.
    some = [record("1", 2.0), record("1.1", 3.0, seed=1), record("1.2", 3.2, seed=2), record("3", 2.2)]
    assert ids(leaderboard(spec(), some)) == ["1", "3"]
    assert ids(leaderboard(spec(), [*some, record("4", 1.9)])) == ["4", "1", "3"]


def test_a_configuration_of_which_a_seed_diverged_stands_behind_the_sound_ones():
    some = [record("1", 1.0), record("1.1", 1.1, seed=1), diverged("1.2", seed=2), record("2", 8.0)]
    some.append(record("3", 0.1, state="pruned", steps=500))
    rows = leaderboard(spec(), some)
    assert ids(rows) == ["2", "1", "3"]
    assert rows[1].replicates == {"finished": 1, "failed": 1}
    assert rows[1].to_json()["bad_seeds"] == [{"trial": "1.2", "seed": 2, "kind": "diverged", "value": None}]


def seeds(key, *curves):
    """A configuration by the curves of its seeds."""
    return [
        record(
            f"{key}.{i}" if i else f"{key}",
            curve[-1],
            seed=i,
            reports={500 * (at + 1): {METRIC: value} for at, value in enumerate(curve)},
        )
        for i, curve in enumerate(curves)
    ]


def test_a_configuration_of_which_a_seed_collapsed_stands_behind_the_stable_ones_and_is_not_tied():
    shaky = seeds(1, [8.0, 2.4], [9.0, 2.1], [8.0, 86.9])
    rows = leaderboard(spec(), [*shaky, *seeds(2, [9.0, 2.8], [9.0, 2.6], [8.0, 2.9]), record("3", 13.0)])
    assert ids(rows) == ["2", "3", "1"]
    assert rows[2].to_json()["bad_seeds"] == [{"trial": "1.2", "seed": 2, "kind": "collapsed", "value": 86.9}]
    assert (rows[2].median, rows[2].n, rows[2].p_value_vs_best, rows[2].tied_with_best) == (
        2.4,
        3,
        None,
        None,
    )
    text = shown(spec(), rows)
    assert "2.1 to 86.9" in text
    assert "trial 1 is unstable: seed 2 collapsed (86.9)" in text
    assert "not separable" not in text


@pytest.mark.parametrize(
    ("goal", "curves", "bad"),
    [
        ("minimize", ([9.0, 2.0], [9.0, 6.1]), []),  # more than three times worse, but no worse than it began
        ("minimize", ([5.0, 2.0], [9.0, 5.9]), []),  # worse than the best one ever was, but not by enough
        ("minimize", ([5.0, 2.0], [9.0, 6.1]), [1]),
        ("minimize", ([5.0, 2.0], [9.0, 50.0], [9.0, 80.0]), [1, 2]),
        ("minimize", ([-5.0, -9.0], [-5.0, -1.0]), []),  # nothing is a multiple of a number below zero
        ("maximize", ([0.4, 0.9], [0.4, 0.2]), [1]),
        ("maximize", ([0.4, 0.9], [0.4, 0.0]), [1]),
        ("maximize", ([0.4, 0.9], [0.4, 0.35]), []),
        ("maximize", ([0.1, 0.9], [0.4, 0.2]), []),
    ],
)
def test_a_seed_collapsed_if_it_is_far_from_the_best_and_worse_than_that_one_ever_was(goal, curves, bad):
    (row,) = leaderboard(spec(metrics=(Metric(name=METRIC, goal=goal),)), seeds(1, *curves))
    assert [seed.seed for seed in row.bad_seeds] == bad


def test_replicates_that_still_run_do_not_count_yet():
    (row,) = leaderboard(spec(), [record("1", 2.0), record("1.1", 9.0, state="running", seed=1, steps=500)])
    assert (row.mean, row.n, row.replicates) == (2.0, 1, {"running": 1})


def replicated(key, values):
    return [record(f"{key}.{i}" if i else f"{key}", value, seed=i) for i, value in enumerate(values)]


SCALES = [
    *replicated(1, [3.4, 3.0, 3.4, 3.5]),
    *replicated(2, [3.5, 3.1, 3.3, 3.6]),
    *replicated(5, [6.9, 5.8, 13.0, 10.8]),
]
"""FID of three guidance scales, each on four seeds: nobody would call 5 as good as 1."""


def test_a_metric_above_zero_is_tested_on_logarithms_and_the_effect_is_a_ratio():
    from scipy import stats

    rows = leaderboard(spec(), SCALES)
    assert ids(rows) == ["1", "2", "5"]
    raw = stats.ttest_1samp(np.log([6.9 / 3.4, 5.8 / 3.0, 13.0 / 3.4, 10.8 / 3.5]), 0)
    assert rows[2].p_value_vs_best == pytest.approx(2 * raw.pvalue)
    assert 2 * raw.pvalue < 0.05 < 2 * stats.ttest_rel([6.9, 5.8, 13.0, 10.8], [3.4, 3.0, 3.4, 3.5]).pvalue
    assert [row.tied_with_best for row in rows] == [True, True, False]
    told = rows[2].to_json()["vs_best"]
    assert (told["scale"], told["n"]) == ("ratio", 4)
    assert told["worse"] == pytest.approx((6.9 * 5.8 * 13.0 * 10.8 / (3.4 * 3.0 * 3.4 * 3.5)) ** 0.25)
    assert told["ci95"] == pytest.approx(np.exp(raw.confidence_interval(0.95)))
    text = shown(spec(), rows)
    assert "2.6x [1.5, 4.4]" in text
    assert "how many times worse on the shared seeds" in text
    assert "not separable: with 4 shared seeds a paired test cannot tell it from the best" in text
    assert "tied" not in text


def test_a_higher_is_better_metric_is_times_worse_too():
    maximise = spec(metrics=(Metric(name=METRIC, goal="maximize"),))
    rows = leaderboard(maximise, [*replicated(1, [0.8, 0.82, 0.79]), *replicated(2, [0.4, 0.42, 0.4])])
    assert ids(rows) == ["1", "2"]
    assert rows[1].vs_best.worse == pytest.approx((0.8 * 0.82 * 0.79 / (0.4 * 0.42 * 0.4)) ** (1 / 3))


def test_differences_are_tested_on_shared_seeds_and_corrected_for_their_number():
    from scipy import stats

    best, near, far = [1.0, 2.0, 3.0, 2.5], [1.1, 2.05, 2.95, 2.6], [2.0, 3.1, 3.95, 3.4]
    # One value below zero, and no ratio makes sense: the whole sweep is compared by differences.
    some = [*replicated(1, best), *replicated(2, near), *replicated(3, far), record("4", 99.0)]
    some.append(record("5", -1.0, state="pruned", steps=500))
    rows = leaderboard(spec(), some)
    assert ids(rows) == ["1", "2", "3", "4", "5"]
    assert [row.tied_with_best for row in rows] == [True, True, False, None, None]
    raw = [stats.ttest_rel(best, other).pvalue for other in (near, far)]
    assert rows[2].p_value_vs_best == pytest.approx(2 * raw[1])  # the smaller of two
    assert rows[1].p_value_vs_best == pytest.approx(raw[0])
    assert rows[0].p_value_vs_best is None
    assert rows[2].to_json()["vs_best"]["scale"] == "difference"
    assert rows[2].vs_best.worse == pytest.approx(0.9875)
    assert "+0.99 ± 0.14" in shown(spec(), rows)
    assert "how much worse on the shared seeds" in shown(spec(), rows)


def test_several_metrics_are_ranked_by_pareto_front():
    metrics = tuple(
        Metric(name=name, goal=goal) for name, goal in ((METRIC, "minimize"), ("eval/accuracy", "maximize"))
    )
    points = {1: (1.0, 0.2), 2: (2.0, 0.9), 3: (2.5, 0.8), 4: (3.0, 0.1), 5: (1.5, 0.5)}
    some = [record(k, a, reports={4500: {METRIC: a, "eval/accuracy": b}}) for k, (a, b) in points.items()]
    rows = leaderboard(spec(metrics=metrics), some)
    assert [(row.trial, row.front) for row in rows] == [("1", 1), ("5", 1), ("2", 1), ("3", 2), ("4", 3)]
    assert rows[2].metrics == {METRIC: 2.0, "eval/accuracy": 0.9}
    assert "front" in shown(spec(metrics=metrics), rows)


def test_an_empty_sweep_has_an_empty_leaderboard():
    assert leaderboard(spec(), []) == []
    assert "rank" in shown(spec(), [])


def test_the_table_fits_a_hundred_columns_with_every_parameter():
    rows = leaderboard(spec(), trials())
    text = shown(spec(), rows)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    heads = ["rank", "trial", "fid_1nfe", "n", "vs", "best", "steps", "law", "mean", "scale", "kappa", "power", "lr"]
    assert text.splitlines()[0].split() == heads
    first = next(line for line in text.splitlines() if line.split()[:1] == ["1"])
    assert "±" in first
    assert first.count("best") == 1
    assert "1000 diverged" in text
    assert "20 more rows" in shown(spec(), rows, limit=4)
    one = shown(spec(), rows, limit=len(rows) - 1)
    assert "1 more row\n" in f"{one}\n"


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_table_goes_on_below_with_the_parameters_beside_rank_trial_and_metric(width):
    rows = leaderboard(spec(), trials())
    text = shown(spec(), rows, width=width, limit=4)
    tables = [line.split() for line in text.splitlines() if line.startswith("rank")]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    assert tables[0] == ["rank", "trial", "fid_1nfe", "n", "vs", "best", "steps"]
    assert all(head[:3] == ["rank", "trial", "fid_1nfe"] for head in tables)
    shown_below = [name for head in tables[1:] for name in head[3:]]
    assert shown_below == ["law", "mean", "scale", "kappa", "power", "lr"]


def test_a_thousand_trials_are_ranked_within_a_second():
    import time

    many = [record(i, float(i % 97)) for i in range(1000)] + [record(f"{i}.1", 1.0, seed=1) for i in range(20)]
    leaderboard(spec(), many[:2])  # scipy's import is not the ranking's
    began = time.perf_counter()
    assert len(leaderboard(spec(), many)) == 1000
    assert time.perf_counter() - began < 1
