"""Whether a rung predicts the end, from trials of which the rung itself has chosen most; and rungs that move by it."""

from __future__ import annotations

import contextlib
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

from orchestrator.paths import Home
from orchestrator.search.curve import Curve
from orchestrator.search.rule import Rule
from orchestrator.search.rules.asha import SURE, Asha
from orchestrator.search.rung_evidence import agreement
from orchestrator.trials.trial import TrialState
from tests.orchestrator import toy
from tests.orchestrator.simulation import Killed, Killer, drive, essence, open_engine, run

LENGTH, RUNGS = 800, (200, 400)


def early(curve: Curve) -> float | None:
    return curve.at_rung(0)


def trial(number: int, first: float, end: float, *, length: int = LENGTH, **more: Any) -> Curve:
    return Curve(number, length, RUNGS, [200, 800], [first, end], [2 * number, 2 * number + 1], **more)


def test_where_all_trials_end_it_is_spearmans_correlation_and_that_of_the_better_half() -> None:
    chance = random.Random(3)
    ends = [chance.gauss(0, 1) for _ in range(15)]
    firsts = [round(end + chance.gauss(0, 1), 1) for end in ends]  # with ties
    curves = {str(i): trial(i, first, end) for i, (first, end) in enumerate(zip(firsts, ends, strict=True))}
    found = agreement(Rule(), "minimize", curves, early)
    assert found is not None
    assert found.correlation == pytest.approx(spearmanr(firsts, ends).statistic)
    better = sorted(zip(ends, firsts, strict=True))[:8]
    assert found.better_half == pytest.approx(spearmanr(*zip(*better, strict=True)).statistic)
    assert (found.trials, found.better) == (15, 8)
    turned = {name: trial(c.number, -c.values[0], -c.values[1]) for name, c in curves.items()}
    assert agreement(Rule(), "maximize", turned, early) == found


def test_trials_that_did_not_end_or_ended_without_a_number_tell_nothing() -> None:
    curves = {str(i): trial(i, i, i, length=900) for i in range(9)}
    curves |= {str(i): trial(i, i, math.inf) for i in range(10, 19)}
    curves |= {str(i): trial(i, i, i) for i in range(20, 24)}
    assert agreement(Rule(), "minimize", curves, early) is None


def stopped_sweep(seed: int, audit: float) -> tuple[dict[str, Curve], float]:
    """Trials whose first value agrees with their end by about 0.5, stopped by it; and the true correlation of all."""
    chance, rule = random.Random(seed), Asha(min_iter=200, eta=3, audit=audit)
    ends = [chance.gauss(0, 1) for _ in range(400)]
    curves: dict[str, Curve] = {}
    firsts = []
    for number, end in enumerate(ends):
        first = end + chance.gauss(0, 1.5)
        firsts.append(first)
        curve = Curve(number, LENGTH, (200,), [200], [first], [2 * number])
        curves[str(number)] = curve
        if rule.reason_to_stop("minimize", curves, str(number)) is None:
            curve.add(LENGTH, end, 2 * number + 1)
    return curves, float(spearmanr(firsts, ends).statistic)


def test_audited_trials_make_the_estimate_one_of_all_trials_though_the_rung_has_chosen_most() -> None:
    found = [stopped_sweep(seed, 0.1) for seed in range(12)]
    rule = Asha(min_iter=200, eta=3, audit=0.1)
    weighted, chosen = [], []
    for curves, truth in found:
        by_weight, by_count = (agreement(one, "minimize", curves, early) for one in (rule, Rule()))
        assert by_weight is not None
        assert by_count is not None
        weighted.append(by_weight.correlation - truth)
        chosen.append(by_count.correlation - truth)
    assert abs(statistics.fmean(weighted)) < 0.06
    assert statistics.fmean(chosen) < -0.08  # among those that the rung let through it looks worse than it is


def test_rungs_move_past_the_last_one_that_misleads_when_enough_trials_have_ended() -> None:
    rule = Asha(min_iter=200, eta=2, audit=0.0, rungs="auto")

    def curves(count: int, wrong: int) -> dict[str, Curve]:
        found = {}
        for i in range(count):
            values = [float(i)] * 3
            values[wrong] = -float(i)
            found[str(i)] = Curve(i, LENGTH, RUNGS, [200, 400, 800], values, [3 * i, 3 * i + 1, 3 * i + 2])
        return found

    assert rule.first_rung("minimize", curves(2 * SURE, 0)) == 1
    assert rule.first_rung("minimize", curves(2 * SURE, 1)) == 2
    assert rule.first_rung("minimize", curves(2 * SURE - 3, 0)) == 0
    assert rule.first_rung("minimize", curves(2 * SURE, 0), group="another") == 0
    assert Asha(min_iter=200, eta=2).first_rung("minimize", curves(2 * SURE, 0)) == 0


@pytest.mark.parametrize("promote", [False, True])
def test_a_trial_is_judged_from_its_own_first_rung_on(promote: bool) -> None:
    rule = Asha(min_iter=200, eta=2, audit=0.0, promote=promote)
    curves = {str(i): Curve(i, LENGTH, RUNGS, [200, 400], [1.0, 1.0], [2 * i, 2 * i + 1]) for i in range(4)}
    free = Curve(4, LENGTH, RUNGS, [200], [9.0], [8], first=1)
    curves["4"] = free
    assert rule.held_at(free, 0) is None
    assert rule.reason_to_stop("minimize", curves, "4") is None
    free.add(400, 9.0, 9)
    assert rule.held_at(free, 0) == 1
    assert (rule.reason_to_stop("minimize", curves, "4") is None) == promote


# ------------------------------------------------------------------------------------------- the engine


def content(kind: str = "Misleading", **changes: Any) -> dict[str, Any]:
    rule = {"type": "asha", "min_iter": 10, "eta": 3, "audit": 0.5, "rungs": "auto", **changes}
    return toy.sweep(**toy.trained(kind), run_cap=44, early_terminate=rule, parameters={"x": {"min": 0.0, "max": 1.0}})


@pytest.mark.parametrize("promote", [False, True])
def test_where_early_ranks_mislead_later_trials_pass_the_rung_and_it_is_recorded(tmp_path: Path, promote: bool) -> None:
    trials = run(Home(tmp_path), content(promote=promote))
    moved = [trial for trial in trials if trial.labels.get("first_rung") == 30]
    assert 5 < len(moved) < 35
    assert all(trial.steps >= 30 for trial in moved)
    before = trials[: moved[0].config_id]
    assert sum(trial.state is TrialState.FINISHED for trial in before) >= 2 * SURE - 1
    assert any(trial.steps == 10 for trial in before)


def test_where_early_ranks_tell_the_rungs_stay(tmp_path: Path) -> None:
    assert not any("first_rung" in trial.labels for trial in run(Home(tmp_path), content("Curve")))


def test_a_killed_sweep_moves_its_rungs_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = Killer(monkeypatch)
    killer.arm(None)
    expected = essence(run(Home(tmp_path / "whole"), content(promote=True)))
    writes = killer.count
    for kill in range(writes // 4, writes, writes // 7):
        home = Home(tmp_path / str(kill))
        killer.arm(kill, ("before", "within", "after")[kill % 3])
        with contextlib.suppress(Killed):
            engine = open_engine(home, content(promote=True))
            with engine.ledger:
                drive(engine)
                engine.finish()
        killer.arm(None)
        assert essence(run(home, content(promote=True))) == expected, kill
