"""Early stopping: limits to the step, and decisions that depend on the recorded reports alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.search.curve import Curve
from orchestrator.search.rule import Rule
from orchestrator.search.rules import RULES
from orchestrator.search.rules.arrivals import keep_count
from orchestrator.search.rules.asha import Asha
from orchestrator.search.rules.median import Median, Percentile
from orchestrator.search.rules.patience import Patience
from orchestrator.search.rules.threshold import Threshold

LENGTH = 90


def asha(**changes: Any) -> Asha:
    return Asha(**({"min_iter": 10, "eta": 3.0} | changes))


class Sweep:
    """Takes reports in the order of their arrival and says each time what the rule says."""

    def __init__(self, rule: Rule, goal: str = "minimize", length: int = LENGTH) -> None:
        self.rule, self.goal, self.length = rule, goal, length
        self.curves: dict[str, Curve] = {}
        self.order = 0

    def report(self, trial: str, step: int, value: float, number: int | None = None) -> str | None:
        if trial not in self.curves:
            place = len(self.curves) if number is None else number
            self.curves[trial] = Curve(place, self.length, tuple(self.rule.steps_of_rungs(self.length)))
        self.order += 1
        self.curves[trial].add(step, value, self.order)
        return self.rule.reason_to_stop(self.goal, self.curves, trial)


def arrive(sweep: Sweep, step: int, values: Sequence[float]) -> list[bool]:
    """Let trials arrive at a step one after the other; which of them go on."""
    return [sweep.report(f"t{index}", step, value) is None for index, value in enumerate(values)]


@pytest.mark.parametrize(("step", "judged"), [(9, False), (10, True), (11, True)])
def test_a_rung_is_reached_at_its_step_and_not_one_before(step: int, judged: bool) -> None:
    sweep = Sweep(asha())
    sweep.report("good", step, 1.0)
    reason = sweep.report("bad", step, 2.0)
    assert (reason is not None) == judged
    if judged:
        assert reason == "asha: place 2 of 2 at step 10, the best 1/3 goes on"


@pytest.mark.parametrize(("step", "judged"), [(89, True), (90, False), (91, False)])
def test_the_last_step_is_never_judged(step: int, judged: bool) -> None:
    sweep = Sweep(asha(min_iter=89))
    for trial in ("a", "b", "c"):
        sweep.report(trial, 80, 1.0)
    sweep.report("a", step, 1.0)
    sweep.report("b", step, 1.0)
    assert (sweep.report("c", step, 2.0) is not None) == judged


@pytest.mark.parametrize(
    ("total", "kept"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 3), (9, 3), (10, 4), (27, 9), (28, 10)]
)
def test_one_in_three_goes_on_rounded_up(total: int, kept: int) -> None:
    assert keep_count(total, 3.0) == kept


def test_a_trial_at_a_rung_is_compared_with_those_that_were_there_before() -> None:
    assert arrive(Sweep(asha()), 10, [5, 4, 3, 2, 1]) == [True] * 5  # each is the best so far
    assert arrive(Sweep(asha()), 10, [1, 2, 3, 4, 5]) == [True, False, False, False, False]
    assert arrive(Sweep(asha()), 10, [1, 5, 5, 2, 3]) == [True, False, False, True, False]


def test_maximise_turns_the_order_round() -> None:
    assert arrive(Sweep(asha(), goal="maximize"), 10, [1, 2, 3]) == [True, True, True]
    assert arrive(Sweep(asha(), goal="maximize"), 10, [3, 2, 1]) == [True, False, False]


def test_equal_values_all_go_on() -> None:
    assert arrive(Sweep(asha()), 10, [1.0] * 7) == [True] * 7


def test_the_value_of_a_rung_is_that_of_the_first_report_past_it() -> None:
    sweep = Sweep(asha())
    sweep.report("a", 12, 5.0)
    sweep.report("a", 20, 1.0)  # counts at no rung
    assert sweep.report("b", 10, 4.0) is None
    assert sweep.report("c", 10, 4.5) is not None


def test_a_report_past_two_rungs_counts_at_the_last_of_them() -> None:
    sweep = Sweep(asha())
    sweep.report("a", 10, 1.0)
    sweep.report("a", 30, 0.5)
    reason = sweep.report("c", 30, 0.7)
    assert reason == "asha: place 2 of 2 at step 30, the best 1/3 goes on"
    assert sweep.report("b", 10, 0.9) is None  # c was better, but much later


def test_a_result_taken_over_from_a_sweep_without_these_rungs_has_no_place_at_them() -> None:
    sweep = Sweep(asha())
    sweep.report("reused", LENGTH, 0.1)
    assert sweep.report("a", 10, 1.0) is None
    assert sweep.report("a", 30, 0.5) is None


def test_brackets_compare_with_their_own_and_skip_the_first_rungs() -> None:
    sweep = Sweep(asha(brackets=2))
    assert sweep.report("even", 10, 1.0, number=0) is None
    assert sweep.report("odd", 10, 9.0, number=1) is None  # bracket 1 starts at the second rung
    assert sweep.report("even", 30, 1.0) is None
    assert sweep.report("odd", 30, 9.0) is None  # the first of its bracket there
    assert sweep.report("odder", 30, 9.5, number=3) is not None


def test_decisions_depend_on_reports_before_them_only() -> None:
    """Take each decision of a random trace again after everything has been reported."""
    rungs = {"min_iter": 10}
    keys: dict[str, dict[str, Any]] = {
        **{"asha": rungs, "hyperband": rungs, "median": {"warmup_trials": 2}, "patience": {"patience": 2}},
        **{"percentile": {"warmup_trials": 2, "percentile": 30.0}, "threshold": {"upper": 0.9}},
    }
    assert {*keys, "none"} == set(RULES)
    for kind, given in keys.items():
        rule = RULES[kind](**given)
        source, sweep, decided, steps = random.Random(kind), Sweep(rule), {}, {f"t{i}": 0 for i in range(12)}
        while len(steps):
            trial = source.choice(sorted(steps))
            steps[trial] += 5
            reason = sweep.report(trial, steps[trial], source.random())
            decided[trial, steps[trial]] = reason
            if reason is not None or steps[trial] >= LENGTH:
                del steps[trial]
        assert any(decided.values()), kind
        for trial, curve in sweep.curves.items():
            for count in range(1, len(curve.steps) + 1):
                cut = Curve(
                    curve.number, LENGTH, curve.rungs, curve.steps[:count], curve.values[:count], curve.order[:count]
                )
                again = rule.reason_to_stop("minimize", sweep.curves | {trial: cut}, trial)
                assert again == decided[trial, curve.steps[count - 1]], (kind, trial, count)


@pytest.mark.parametrize("number", [18, 19, 20, 39])
def test_now_and_then_a_trial_is_let_through_whatever_it_reports(number: int) -> None:
    for rule, let_through in (
        (asha(), number in (19, 39)),
        (asha(audit=0.0), False),
        (asha(audit=0.5), number % 2 == 1),
    ):
        sweep = Sweep(rule)
        sweep.report("good", 10, 1.0)
        assert (sweep.report("bad", 10, 2.0, number=number) is None) == let_through
        held = Asha(min_iter=10, promote=True, audit=rule.audit).held_at(sweep.curves["bad"], 0)
        assert (held is None) == let_through


@pytest.mark.parametrize(("others", "judged"), [(4, False), (5, True), (6, True)])
def test_the_median_needs_enough_others(others: int, judged: bool) -> None:
    sweep = Sweep(Median(warmup_trials=5))
    for index in range(others):
        sweep.report(f"t{index}", 30, float(index))
    assert (sweep.report("bad", 30, 100.0) is not None) == judged


@pytest.mark.parametrize(("step", "judged"), [(29, False), (30, True), (31, True)])
def test_the_median_waits_for_min_iter(step: int, judged: bool) -> None:
    sweep = Sweep(Median(min_iter=30, warmup_trials=1))
    sweep.report("good", 40, 1.0)
    sweep.curves["good"] = Curve(0, LENGTH, (), [10, 29, 30, 31, 40], [1.0] * 5, [-4, -3, -2, -1, 0])
    assert (sweep.report("bad", step, 100.0) is not None) == judged


@pytest.mark.parametrize(("percentile", "values_kept"), [(25.0, 1.0), (50.0, 2.0), (75.0, 3.0)])
def test_a_percentile_is_counted_from_the_best(percentile: float, values_kept: float) -> None:
    for offset, stopped in ((-0.01, False), (0.0, False), (0.01, True)):
        sweep = Sweep(Percentile(percentile=percentile))
        for index in range(5):
            sweep.report(f"t{index}", 30, float(index))
        assert (sweep.report("x", 30, values_kept + offset) is not None) == stopped


def test_the_median_looks_at_the_best_so_far_and_not_at_a_late_slip() -> None:
    sweep = Sweep(Median(warmup_trials=1))
    for index in range(3):
        sweep.report(f"t{index}", 10, 1.0)
        sweep.report(f"t{index}", 20, 1.0)
    sweep.report("x", 10, 0.5)
    assert sweep.report("x", 20, 9.0) is None


@pytest.mark.parametrize(("idle", "stopped"), [(1, False), (2, True), (3, True)])
def test_patience_counts_reports_without_improvement(idle: int, stopped: bool) -> None:
    sweep = Sweep(Patience(patience=2))
    sweep.report("x", 5, 1.0)
    assert [sweep.report("x", 5 + 5 * i, 1.0) is not None for i in range(1, idle + 1)][-1] == stopped


def test_an_improvement_below_min_delta_is_none() -> None:
    sweep = Sweep(Patience(patience=2, min_delta=0.1))
    assert [sweep.report("x", 5 * i, 1.0 - 0.04 * i) is not None for i in range(1, 5)] == [False, False, True, False]


@pytest.mark.parametrize(("value", "stopped"), [(0.99, True), (1.0, False), (2.0, False), (2.01, True)])
def test_a_threshold_is_inclusive(value: float, stopped: bool) -> None:
    sweep = Sweep(Threshold(lower=1.0, upper=2.0))
    assert (sweep.report("x", 10, value) is not None) == stopped


def test_without_a_rule_nothing_is_stopped() -> None:
    curves = {"a": Curve(0, LENGTH, (), [10], [1.0], [1]), "b": Curve(1, LENGTH, (), [10], [9e9], [2])}
    assert Rule().reason_to_stop("minimize", curves, "b") is None


def grouped(rule: Rule, *trials: tuple[str, float]) -> list[str | None]:
    """Let trials of groups arrive at step 10 one after the other; what the rule says of each."""
    curves: dict[str, Curve] = {}
    said = []
    for order, (group, value) in enumerate(trials):
        curves[f"t{order}"] = Curve(order, LENGTH, tuple(rule.steps_of_rungs(LENGTH)), [10], [value], [order], group)
        said.append(rule.reason_to_stop("minimize", curves, f"t{order}"))
    return said


@pytest.mark.parametrize("rule", [asha(by="objective.name"), Median(by="objective.name", warmup_trials=2)])
def test_trials_of_one_group_are_not_judged_by_those_of_another(rule: Rule) -> None:
    trials = [("a", 1.0), ("a", 1.5), ("b", 9.0), ("b", 9.5), ("b", 20.0), ("a", 8.0)]
    said = grouped(rule, *trials)
    assert [reason is not None for reason in said[2:3]] == [False]  # the first of its group, however bad
    assert said[5] is not None
    assert said[4] is not None
    together = grouped(rule, *(("", value) for _, value in trials))
    assert together[4] is not None
    if isinstance(rule, Asha):
        assert "place 3 of 3" in said[4]
        assert "place 3 of 3" in said[5]  # of the three of its group: 1.0, 1.5 and 8.0
        assert together[2] is not None


def test_promotion_ranks_each_group_by_itself() -> None:
    rule = asha(promote=True, by="objective.name")
    values = {"a": [1.0, 2.0, 3.0], "b": [7.0, 8.0, 9.0]}
    curves = {
        f"{group}{n}": Curve(3 * (group == "b") + n, LENGTH, (10, 30), [10], [value], [n], group)
        for group, several in values.items()
        for n, value in enumerate(several)
    }
    held = dict.fromkeys(curves, 0)
    assert rule.next_promotion("minimize", curves, held, last=False) == "a0"
    del held["a0"]
    assert rule.next_promotion("minimize", curves, held, last=False) == "b0"
    del held["b0"]
    assert rule.next_promotion("minimize", curves, held, last=False) is None
    assert rule.place("minimize", curves, "b1", 0) == "asha: place 2 of 3 at step 10, the best 1/3 goes on"


def test_groups_of_their_own_let_more_trials_on() -> None:
    (_, (_, alone), _), (_, (_, apart), _) = (asha().expected(27, LENGTH, groups=groups) for groups in (1, 9))
    assert alone < apart <= 27
