"""Comparing a final training with the trial that chose it."""

import math

import pytest

from orchestrator.final.reproduction import compare_curves, rank_correlation


def test_equal_curves_are_reproduced_exactly_and_other_steps_do_not_count():
    result = compare_curves({100: 4.0, 200: 2.5, 300: 9.0}, {100: 4.0, 200: 2.5, 1000: 0.1})
    assert (result.steps, result.largest_difference, result.reproduced) == ((100, 200), 0.0, True)
    assert "exactly" in str(result)


@pytest.mark.parametrize(("value", "reproduced"), [(4.19, True), (4.21, False), (3.79, False), (math.nan, False)])
def test_the_tolerance_is_relative_to_the_trial(value, reproduced):
    assert compare_curves({100: 4.0}, {100: value}, tolerance=0.05).reproduced is reproduced


def test_nothing_in_common_is_no_verdict():
    result = compare_curves({100: 4.0}, {50: 4.0})
    assert result.reproduced is None
    assert "no step in common" in str(result)


def test_rank_correlation_sees_order_and_reversal():
    assert rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 25.0, 400.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)  # 1 - 6*2/(3*8)
    assert rank_correlation([1.0], [1.0]) is None
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) is None
    with pytest.raises(ValueError, match="2 short"):
        rank_correlation([1.0, 2.0], [1.0])
