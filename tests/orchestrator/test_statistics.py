import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.statistics import (
    detectable,
    has_ratios,
    holm,
    mean_ci,
    pair_deviation,
    paired_effect,
    rank_correlation,
    separable_from_best,
)

finite = st.integers(-100_000, 100_000).map(lambda i: i / 100)
unhurried = settings(deadline=None)  # the first example imports scipy


def paired_test(a, b):
    """The p-value of differences."""
    found = paired_effect(a, b, ratio=False, goal="minimize")
    return found and found.p_value


def test_interval_of_two_values_is_the_closed_form():
    # One degree of freedom is the Cauchy law: its 97.5 % point is tan(0.475 pi).
    got = mean_ci([1.0, 4.0])
    half = math.tan(0.475 * math.pi) * 1.5
    assert (got.mean, got.n) == (2.5, 2)
    assert got.low == pytest.approx(2.5 - half)
    assert got.high == pytest.approx(2.5 + half)
    assert got.half_width == pytest.approx(half)


@unhurried
@given(st.lists(finite, min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_agrees_with_scipy(values, level):
    from scipy import stats

    got = mean_ci(values, level)
    error = stats.sem(values)
    if error == 0:
        assert got.low == pytest.approx(got.high)
    else:
        want = stats.t.interval(level, len(values) - 1, loc=sum(values) / len(values), scale=error)
        assert (got.low, got.high) == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_a_single_value_has_no_interval():
    got = mean_ci([3.0])
    assert (got.mean, got.low, got.high, got.n, got.half_width) == (3.0, None, None, 1, None)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_interval_refuses_what_is_not_finite(values):
    with pytest.raises(ValueError, match="finite"):
        mean_ci(values)


def test_interval_refuses_a_level_outside_the_unit_interval():
    with pytest.raises(ValueError, match="level"):
        mean_ci([1.0, 2.0], 95)


@unhurried
@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=10))
def test_paired_test_agrees_with_scipy(pairs):
    import numpy as np
    from scipy import stats

    a = {seed: x for seed, (x, _) in enumerate(pairs)}
    b = {seed: y for seed, (_, y) in enumerate(pairs)}
    difference = np.array([x - y for x, y in pairs])
    if difference.std() <= 1e-9 * abs(difference).max() or difference.std() == 0:
        return  # scipy warns there; the next test holds our rule
    want = stats.ttest_rel([x for x, _ in pairs], [y for _, y in pairs]).pvalue
    assert paired_test(a, b) == pytest.approx(want, rel=1e-6, abs=1e-12)


def test_paired_test_of_two_seeds_is_the_closed_form():
    # t = mean / (sd / sqrt 2) = 2 / 1 with one degree of freedom: p = 1 - 2 atan(2) / pi.
    p = paired_test({0: 3.0, 1: 5.0}, {0: 2.0, 1: 2.0})
    assert p == pytest.approx(1 - 2 * math.atan(2.0) / math.pi)


def test_paired_test_uses_shared_seeds_only_and_matches_them_by_seed():
    a = {3: 1.0, 1: 2.0, 2: 4.0, 9: 100.0}
    b = {1: 2.5, 2: 4.25, 3: 1.75, 7: -50.0}
    assert paired_test(a, b) == paired_test({1: 2.0, 2: 4.0, 3: 1.0}, {1: 2.5, 2: 4.25, 3: 1.75})
    assert paired_test(a, b) < 0.1


def test_pairing_finds_a_difference_that_the_spread_of_seeds_hides():
    a = {0: 1.0, 1: 5.0, 2: 9.0}
    b = {0: 1.51, 1: 5.49, 2: 9.5}
    assert paired_test(a, b) < 0.001
    assert mean_ci(list(a.values())).high > mean_ci(list(b.values())).low


def test_fewer_than_two_shared_seeds_cannot_be_tested():
    assert paired_test({0: 1.0}, {0: 2.0}) is None
    assert paired_test({0: 1.0, 1: 2.0}, {1: 3.0, 2: 1.0}) is None


def test_differences_without_spread():
    assert paired_test({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) == 1.0
    assert paired_test({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5}) == 0.0


def test_holm_by_hand():
    # sorted .01 .02 .04 times 3, 2, 1 = .03 .04 .04
    assert holm([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


BAD, GOOD = [6.9, 5.8, 13.0, 10.8], [3.4, 3.0, 3.4, 3.5]
"""FIDs of two guidance scales on the same four seeds."""


def by_seed(values):
    return dict(enumerate(values))


def test_a_ratio_is_tested_on_logarithms_and_its_interval_is_their_t_interval():
    import numpy as np
    from scipy import stats

    found = paired_effect(by_seed(BAD), by_seed(GOOD), ratio=True, goal="minimize")
    want = stats.ttest_1samp(np.log(BAD) - np.log(GOOD), 0)
    assert found.p_value == pytest.approx(want.pvalue)
    assert found.worse == pytest.approx((6.9 * 5.8 * 13.0 * 10.8 / (3.4 * 3.0 * 3.4 * 3.5)) ** 0.25)
    assert found.ci95 == pytest.approx(np.exp(want.confidence_interval(0.95)))
    assert found.n == 4


def test_what_is_worse_follows_the_goal():
    a, b = {0: 0.4, 1: 0.5}, {0: 0.8, 1: 1.0}
    assert paired_effect(a, b, ratio=True, goal="maximize").worse == pytest.approx(2.0)
    assert paired_effect(a, b, ratio=True, goal="minimize").worse == pytest.approx(0.5)
    assert paired_effect(a, b, ratio=False, goal="maximize").worse == pytest.approx(0.45)
    found = paired_effect({0: 0.4, 1: 0.7}, b, ratio=True, goal="maximize")
    back = paired_effect(b, {0: 0.4, 1: 0.7}, ratio=True, goal="maximize")
    assert (found.is_better, back.is_better) == (False, True)
    assert found.turned.worse == pytest.approx(back.worse)
    assert found.turned.ci95 == pytest.approx(back.ci95)


def test_one_shared_seed_has_an_effect_and_no_test():
    found = paired_effect({0: 3.0, 1: 9.0}, {0: 2.0, 7: 1.0}, ratio=True, goal="minimize")
    assert (found.worse, found.ci95, found.p_value, found.n) == (pytest.approx(1.5), None, None, 1)
    assert paired_effect({0: 3.0}, {1: 2.0}, ratio=True, goal="minimize") is None


def test_ratios_need_every_value_above_zero():
    assert has_ratios([0.1, 7.0])
    assert not has_ratios([0.1, 0.0])
    assert not has_ratios([0.1, -2.0])


@pytest.mark.parametrize(("n", "power"), [(2, 0.8), (4, 0.8), (4, 0.5), (9, 0.95)])
def test_a_detectable_difference_is_found_as_often_as_it_says(n, power):
    import numpy as np
    from scipy import stats

    delta = detectable(n, 0.3, power=power)
    drawn = np.random.default_rng(n).normal(delta, 0.3, size=(20_000, n))
    assert (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(power, abs=0.015)


def test_one_seed_detects_nothing():
    with pytest.raises(ValueError, match="at least 2"):
        detectable(1, 0.3)


def test_the_spread_of_a_pair_is_freed_from_what_seed_and_configuration_do():
    import numpy as np

    chance = np.random.default_rng(5)
    own = chance.normal(0, 0.1, size=(60, 40))
    logs = chance.normal(0, 1.0, size=(60, 1)) + chance.normal(0, 0.5, size=(1, 40)) + own
    groups = [by_seed(np.exp(row).tolist()) for row in logs]
    assert pair_deviation(groups) == pytest.approx(0.1 * math.sqrt(2), rel=0.04)
    two = [{0: 1.0, 1: 2.0}, {0: 3.0, 1: 12.0, 5: 1.0}]
    # Two by two, one degree of freedom: the deviation of log 3 and log 6 is log 2 / sqrt 2.
    assert pair_deviation(two) == pytest.approx(math.log(2) / math.sqrt(2))
    assert pair_deviation([*two, {0: 4.0}, {0: -1.0, 1: 2.0}]) == pair_deviation(two)


def test_no_spread_is_known_of_single_seeds_or_seeds_that_nobody_shares():
    assert pair_deviation([{0: 1.0}, {0: 2.0}]) is None
    assert pair_deviation([{0: 1.0, 1: 2.0}]) is None
    assert pair_deviation([{0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0}]) is None


def test_what_is_separable_from_the_best():
    best = {0: 1.0, 1: 2.0, 2: 3.0}
    near = {0: 1.2, 1: 1.9, 2: 3.05}
    worse = {0: 2.0, 1: 3.1, 2: 3.95}
    assert separable_from_best([best, near, worse, {0: 9.0}], ratio=False) == [False, False, True, None]
    # On logarithms the gap of 1 at 3 counts for less than that at 1.
    assert separable_from_best([best, worse], ratio=True) == [False, False]
    assert separable_from_best([by_seed(GOOD), by_seed(BAD), best, {0: 9.0}], ratio=True)[1]
    assert not separable_from_best([by_seed(GOOD), by_seed(BAD), best, {0: 9.0}], ratio=False)[1]
    assert separable_from_best([], ratio=True) == []


@unhurried
@given(st.lists(st.tuples(st.integers(0, 6), finite), min_size=3, max_size=12))
def test_rank_correlation_agrees_with_scipy(pairs):
    from scipy import stats

    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert rank_correlation(a, b) is None
    else:
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2], [2, 1]) is None
    with pytest.raises(ValueError, match="length"):
        rank_correlation([1, 2, 3], [1, 2])
