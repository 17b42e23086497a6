"""Selection under noise: which configuration is called the best, and how that turns out against the truth."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest

from orchestrator.search.choice import by_model, by_seeds, seed_noise, tied_with_first
from orchestrator.search.draws import Observation
from orchestrator.search.replication import Replicates, next_replicate
from orchestrator.spec.settings import Metric
from orchestrator.trials.trial import TrialRecord, TrialState
from tests.orchestrator import toy

NOISE = 0.25
METRIC = Metric(name="loss", goal="minimize")


def true(x: float, y: float) -> float:
    return math.exp(3 * (x - 0.3) ** 2 + 2 * (y - 0.6) ** 2)


def noisy(x: float, y: float, run: str) -> float:
    return true(x, y) * math.exp(random.Random(run).gauss(0, NOISE))


def space() -> Any:
    shape = {"min": 0.0, "max": 1.0, "distribution": "uniform"}
    return toy.spec(toy.sweep(parameters={"x": shape, "y": shape})).space


def ended(seed: int, count: int = 25) -> list[Observation]:
    chance = random.Random(seed)
    found = []
    for number in range(count):
        values = {"x": chance.random(), "y": chance.random()}
        value = noisy(**values, run=f"{seed}/{number}")
        found.append(Observation(number, values, TrialState.FINISHED, (value,), 90, reports={90: value}, length=90))
    return found


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_what_the_model_expects_to_be_best_is_truly_better_than_the_best_value(goal: str) -> None:
    """Over several sweeps of which each has a lucky winner; a metric of which more is better is the reciprocal."""
    chosen, lucky, losses = [], [], []
    for seed in range(8):
        known = ended(seed)
        if goal == "maximize":
            turned = [1 / (trial.metrics or (0,))[0] for trial in known]
            known = [
                Observation(t.number, t.values, t.state, (value,), 90, reports={90: value}, length=90)
                for t, value in zip(known, turned, strict=True)
            ]
        found = by_model(space(), goal, known, {trial.number: trial.values for trial in known}).configurations
        pick = min if goal == "minimize" else max
        best = pick(known, key=lambda trial: found[trial.number].value)
        observed = pick(known, key=lambda trial: (trial.metrics or (0,))[0])
        assert found[best.number].loss == min(estimate.loss for estimate in found.values())
        chosen.append(true(**best.values))
        lucky.append(true(**observed.values))
        losses.append(found[best.number].loss)
    assert statistics.fmean(chosen) < statistics.fmean(lucky) - 0.02
    assert all(0 <= loss < 0.5 for loss in losses)


def test_the_expected_loss_is_the_distance_from_the_truly_best() -> None:
    """Of many draws of truth and of noise: what is chosen by the means is as much worse as is said, in the mean."""
    chance, told, paid = random.Random(0), [], []
    for _ in range(150):
        truth = {key: chance.gauss(10, 0.5) for key in range(6)}
        seen = {key: {seed: value + chance.gauss(0, 1) for seed in range(4)} for key, value in truth.items()}
        found = by_seeds("minimize", {key: {s: v - 100 for s, v in row.items()} for key, row in seen.items()})
        assert found is not None
        best = min(found.configurations, key=lambda key: found.configurations[key].value)
        told.append(found.configurations[best].loss)
        paid.append(truth[best] - min(truth.values()))
    assert statistics.fmean(told) == pytest.approx(statistics.fmean(paid), rel=0.35)


def test_noise_is_what_is_left_after_configuration_and_seed() -> None:
    effects = {0: 0.0, 1: 5.0, 2: -3.0}
    exact = {key: {seed: -100 + 10 * key + effect for seed, effect in effects.items()} for key in range(3)}
    assert seed_noise(exact) == (pytest.approx(0.0, abs=1e-20), 4)
    off = {**exact, 0: {**exact[0], 2: exact[0][2] + 3.0}}  # residuals of one entry: 9 (1 - 1/3)(1 - 1/3)
    assert seed_noise(off) == (pytest.approx(9 * 4 / 9 / 4), 4)
    assert seed_noise({0: {0: 1.0, 1: 3.0}, 1: {5: 2.0}}) == (pytest.approx(0.5 * math.log(3) ** 2), 1)
    assert seed_noise({0: {0: 1.0}, 1: {0: 2.0}}) is None
    assert by_seeds("minimize", {0: {0: 1.0}, 1: {0: 2.0}}) is None


def test_a_clear_difference_is_told_after_two_seeds_where_others_show_the_noise() -> None:
    rows = [{0: -10.0, 1: -9.9}, {0: -9.8, 1: -9.9}, {0: -9.9, 1: -9.7}, {0: -2.0, 1: -2.1}]
    assert tied_with_first(rows) == [True, True, True, False]
    assert tied_with_first([rows[0], rows[3]])[1] in (True, False)
    assert tied_with_first([{0: 1.0}, {0: 2.0}]) == [True, True]
    assert tied_with_first([]) == []


# ---------------------------------------------------------------------------------------------- racing


def raced(seed: int, rule: Replicates) -> tuple[int, int, int]:
    """A search of 12 noisy configurations and its race: the naive winner, the winner of the race, the seeds spent."""
    trials = []

    def add(config: int, replicate: int) -> None:
        value = TRUTH[config] * math.exp(random.Random(f"{seed}/{config}/{replicate}").gauss(0, NOISE))
        trials.append(
            TrialRecord(
                id=f"{config}.{replicate}" if replicate else str(config), config_id=config, replicate=replicate,
                seed=replicate, values={"x": config}, config_hash=str(config), state=TrialState.FINISHED, steps=90,
                reports={90: {"loss": value}}, metric=value,
            )
        )  # fmt: skip

    for config in TRUTH:
        add(config, 0)
    naive = min(trials, key=lambda trial: trial.metric or math.inf).config_id
    while (wanted := next_replicate(rule, METRIC, trials)) is not None:
        add(wanted.config_id, wanted.replicate)
    again = {trial.config_id for trial in trials if trial.replicate}
    means = {
        config: statistics.fmean(t.metric or 0.0 for t in trials if t.config_id == config and (t.replicate or 0) >= 0)
        for config in again
    }
    longest = max(sum(t.config_id == config for t in trials) for config in again)
    left = [c for c in again if sum(t.config_id == c for t in trials) == longest]
    return naive, min(left, key=lambda config: means[config]), len(trials) - len(TRUTH)


TRUTH = {config: 1.0 + 0.12 * config for config in range(12)}


def test_a_race_finds_the_truly_best_where_the_naive_winner_is_a_lucky_one_and_spends_less_than_all_seeds() -> None:
    found = [raced(seed, Replicates(top=5, seeds=8, race=True)) for seed in range(30)]
    naive, won = (statistics.fmean(TRUTH[row[at]] for row in found) for at in (0, 1))
    assert won < naive - 0.05
    spent = [row[2] for row in found]
    assert statistics.fmean(spent) < 0.8 * 5 * 8
    assert max(spent) <= 5 * 8


def test_a_race_is_among_those_that_the_model_expects_to_be_best() -> None:
    trials = [
        TrialRecord(
            id=str(config), config_id=config, replicate=0, seed=0, values={}, config_hash="", metric=value, steps=90,
            state=TrialState.FINISHED, reports={90: {"loss": value}},
        )
        for config, value in enumerate((1.0, 2.0, 3.0))
    ]  # fmt: skip
    rule = Replicates(top=1, seeds=1)
    assert next_replicate(rule, METRIC, trials).config_id == 0  # type: ignore[union-attr]
    assert next_replicate(rule, METRIC, trials, {0: 2.4, 1: 2.2}).config_id == 1  # type: ignore[union-attr]
