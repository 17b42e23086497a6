"""The first row is the configuration of the best expected value, and says so where that is not the best one."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from orchestrator.results import choice
from orchestrator.results.findings import verdict
from orchestrator.results.leaderboard_rows import Row, leaderboard
from orchestrator.results.leaderboard_text import overruled
from orchestrator.results.sweep_status import best_so_far
from orchestrator.results.winner import winning_config
from orchestrator.trials.trial import TrialRecord
from tests.orchestrator.example_sweep import METRIC, record, spec

LUCKY = 5


def values(lr: float, scale: float) -> dict[str, Any]:
    return {
        "objective.time.law": "uniform",
        "objective.guidance.scale": scale,
        "objective.guidance.kappa": 0.5,
        "objective.weight.power": 1.0,
        "optimizer.lr": lr,
    }


def truth(lr: float) -> float:
    return 2.0 * math.exp(1.5 * (math.log10(lr) + 3.0) ** 2)


def trials(count: int = 24) -> list[TrialRecord]:
    """The metric depends on the learning rate alone, with noise of a fifth; trial 5, at a bad one, has the best one."""
    chance = random.Random(5)
    rates = [10 ** (-4 + 1.4 * (number + 0.5) / count) for number in range(count)]
    ends = [truth(rate) * math.exp(chance.gauss(0, 0.2)) for rate in rates]
    if count > LUCKY:
        ends[LUCKY] = 0.98 * min(ends)
    return [
        record(
            number,
            end,
            values=values(rate, 1 + 3 * chance.random()),
            reports={500: {METRIC: 4 * end}, 1500: {METRIC: 2 * end}, 4500: {METRIC: end}},
        )
        for number, (rate, end) in enumerate(zip(rates, ends, strict=True))
    ]


def rows(sweep: Any, records: list[TrialRecord]) -> list[Row]:
    return leaderboard(sweep, records)


def test_a_lucky_trial_among_bad_neighbours_is_not_called_the_best_and_the_table_says_why() -> None:
    sweep, records = spec(), trials()
    found = rows(sweep, records)
    lucky = next(row for row in found if row.trial == "5")
    assert lucky.metric == min(row.metric for row in found if row.metric is not None)
    assert found[0].trial != "5"
    assert truth(found[0].config["optimizer.lr"]) < truth(lucky.config["optimizer.lr"])
    assert lucky.expected is not None
    assert found[0].expected is not None
    assert lucky.expected > found[0].expected
    assert [row.rank for row in found] == list(range(1, len(records) + 1))
    assert overruled(sweep, found).startswith("trial 5 had the best value, ")
    best = best_so_far(sweep, records)
    assert best is not None
    assert best.trial == found[0].trial
    assert "of another seed" in verdict(sweep, found)
    entry = found[0].to_json()
    assert entry["expected"] == found[0].expected
    assert 0 <= entry["expected_loss"] < lucky.to_json()["expected_loss"]
    evidence = winning_config(sweep, records, found).evidence
    assert evidence["trial"] == found[0].trial
    assert evidence["expected"] == found[0].expected


def test_by_the_observed_value_the_lucky_trial_is_first() -> None:
    sweep = spec(select="observed")
    found = rows(sweep, trials())
    assert found[0].trial == "5"
    assert (found[0].expected, found[0].to_json()["expected"]) == (None, None)
    assert overruled(sweep, found) == ""


@pytest.mark.parametrize("count", [4, 7])
def test_from_a_few_trials_nothing_is_expected(count: int) -> None:
    assert all(row.estimate is None for row in rows(spec(), trials(count=count)))


def test_where_configurations_have_seeds_their_means_decide_and_the_loss_is_told() -> None:
    records = trials()
    again = [
        record(f"{number}.{seed}", mean + 0.1 * seed, seed=seed, values=records[number].values)
        for number, mean in ((3, 3.9), (14, 2.0))
        for seed in (1, 2)
    ]
    found = {row.trial: row for row in rows(spec(), records + again)}
    assert (found["14"].rank or 99) < (found["3"].rank or 0)
    assert found["3"].expected is None  # its mean is in the table
    assert found["14"].estimate is not None
    assert found["3"].estimate is not None
    assert found["14"].estimate.loss < found["3"].estimate.loss
    assert found["10"].estimate is None


def test_an_answer_is_found_again_as_long_as_the_trials_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    records, asked = trials(), []
    by_model = choice.by_model
    monkeypatch.setattr(choice, "by_model", lambda *given: asked.append(1) or by_model(*given))
    sweep = spec()
    first = [row.trial for row in rows(sweep, records)]
    assert [row.trial for row in rows(sweep, list(records))] == first
    assert len(asked) == 1
    rows(sweep, [*records[:-1], record(23, 1.0, values=records[23].values)])
    assert len(asked) == 2
