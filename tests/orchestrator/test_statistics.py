import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.statistics import holm, mean_ci, paired_test, rank_correlation, tied_with_best

finite = st.integers(-100_000, 100_000).map(lambda i: i / 100)
unhurried = settings(deadline=None)  # the first example imports scipy


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


def test_ties_with_the_best():
    best = {0: 1.0, 1: 2.0, 2: 3.0}
    near = {0: 1.2, 1: 1.9, 2: 3.05}
    worse = {0: 2.0, 1: 3.1, 2: 3.95}
    assert tied_with_best([best, near, worse, {0: 9.0}]) == [True, True, False, None]
    assert tied_with_best([]) == []


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
