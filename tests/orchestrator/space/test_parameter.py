"""One dimension of a space: quantiles, lattices, membership."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanflow_core.config.yaml_file import parse_value
from orchestrator.space.condition import Condition, parse_condition, same
from orchestrator.space.parameter import Parameter

UNITS = st.floats(0, 1)


def parameter(kind, distribution="uniform", **fields):
    return Parameter(name="x", kind=kind, distribution=distribution, **fields)


UNIFORM = parameter("float", low=-2.0, high=0.5)
LOG = parameter("float", "log_uniform_values", low=1e-4, high=3e-2, log=True)
WHOLE = parameter("int", "int_uniform", low=-3, high=9)
STEPPED = parameter("float", "q_uniform", low=0.1, high=0.7, step=0.1)
LOG_STEPPED = parameter("int", "q_log_uniform_values", low=32, high=512, step=32, log=True)
WEIGHTED = parameter("categorical", choices=("a", "b", "c"), probabilities=(0.1, 0.6, 0.3))
NORMAL = parameter("normal", "normal", mu=0.7, sigma=0.2)
CUT = parameter("normal", "normal", mu=0.7, sigma=0.2, low=0.0, high=0.8)
LOG_NORMAL = parameter("normal", "log_normal", mu=-2.0, sigma=0.5, log=True)
STEPPED_NORMAL = parameter("normal", "q_normal", mu=5.0, sigma=3.0, step=2)
BETA = parameter("beta", "beta", a=2.0, b=5.0, low=0.0, high=1.0)
STEPPED_BETA = parameter("beta", "q_beta", a=2.0, b=5.0, low=0.0, high=0.9, step=0.3)
NUMERIC = [UNIFORM, LOG, WHOLE, STEPPED, LOG_STEPPED, NORMAL, CUT, LOG_NORMAL, STEPPED_NORMAL, BETA, STEPPED_BETA]


@pytest.mark.parametrize("p", NUMERIC, ids=lambda p: p.distribution)
@settings(deadline=None)
@given(u=UNITS, v=UNITS)
def test_values_rise_with_the_quantile_and_lie_within_the_bounds(p, u, v):
    low, high = p.from_unit(min(u, v)), p.from_unit(max(u, v))
    assert low <= high
    assert p.contains(low)
    assert p.contains(high)


@pytest.mark.parametrize("p", [*NUMERIC, WEIGHTED], ids=lambda p: p.distribution)
@settings(deadline=None)
@given(u=UNITS)
def test_a_value_comes_back_from_its_own_quantile(p, u):
    value = p.from_unit(u)
    again = p.from_unit(p.to_unit(value))
    assert again == (value if p.discrete or p.step else pytest.approx(value, rel=1e-6, abs=1e-9))


def test_quantiles_of_the_continuous_laws():
    assert UNIFORM.from_unit(0.3) == pytest.approx(-1.25)
    assert LOG.from_unit(0.25) == pytest.approx(1e-4 * 300**0.25)
    assert NORMAL.from_unit(0.9) == pytest.approx(NormalDist(0.7, 0.2).inv_cdf(0.9))
    assert LOG_NORMAL.from_unit(0.2) == pytest.approx(math.exp(NormalDist(-2, 0.5).inv_cdf(0.2)))
    # beta(2, 5): F(x) = 1 - (1-x)^5 (1+5x)
    x = BETA.from_unit(0.35)
    assert 1 - (1 - x) ** 5 * (1 + 5 * x) == pytest.approx(0.35)


def test_a_cut_normal_law_is_renormalised_not_clipped():
    law = NormalDist(0.7, 0.2)
    low, high = law.cdf(0.0), law.cdf(0.8)
    assert CUT.from_unit(0.9) == pytest.approx(law.inv_cdf(low + 0.9 * (high - low)))
    assert CUT.from_unit(0.95) < 0.8


def test_every_value_of_a_uniform_lattice_is_as_likely_as_any_other_and_written_as_people_do():
    values = [STEPPED.from_unit((i + 0.5) / 700) for i in range(700)]
    assert sorted(set(values)) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert {values.count(v) for v in set(values)} == {100}
    assert list(STEPPED.values()) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_whole_steps_give_whole_numbers():
    assert {type(LOG_STEPPED.from_unit(u / 50)) for u in range(51)} == {int}
    assert list(LOG_STEPPED.values()) == list(range(32, 513, 32))
    assert {type(STEPPED_NORMAL.from_unit(u / 50)) for u in range(51)} == {int}


def test_small_values_of_a_log_lattice_are_likelier_than_large_ones():
    values = [LOG_STEPPED.from_unit((i + 0.5) / 2000) for i in range(2000)]
    share = values.count(32) / 2000  # the numbers 16 to 48 of 16 to 528
    assert share == pytest.approx(math.log(3) / math.log(33), abs=0.01)


def test_choices_have_their_probabilities():
    values = [WEIGHTED.from_unit((i + 0.5) / 100) for i in range(100)]
    assert [values.count(c) for c in "abc"] == [10, 60, 30]
    assert WEIGHTED.from_unit(1.0) == "c"


@pytest.mark.parametrize(
    ("p", "value", "inside"),
    [
        (UNIFORM, 0.5, True),
        (UNIFORM, 0.501, False),
        (UNIFORM, True, False),
        (UNIFORM, math.nan, False),
        (UNIFORM, "0", False),
        (WHOLE, 9, True),
        (WHOLE, 8.5, False),
        (WHOLE, 10, False),
        (STEPPED, 0.30000000000000004, True),
        (STEPPED, 0.35, False),
        (BETA, 1.01, False),
        (WEIGHTED, "d", False),
        (parameter("categorical", choices=(1, 2)), True, False),
        (parameter("categorical", choices=(1, 2)), 1.0, True),
    ],
)
def test_membership(p, value, inside):
    assert p.contains(value) is inside
    if not inside:
        with pytest.raises(ValueError, match="not a value of x"):
            p.to_unit(value)


def test_choices_that_are_lists_have_labels_that_lead_back():
    p = parameter("categorical", choices=([0.99], [0.99, 0.999]))
    assert p.labels == ("[0.99]", "[0.99, 0.999]")
    assert p.labelled("[0.99, 0.999]") == [0.99, 0.999]
    assert parameter("categorical", choices=("b", 2, None)).labels == ("b", 2, None)
    with pytest.raises(ValueError, match="not a label"):
        p.labelled("[0.9]")


def test_only_plain_ranges_are_native():
    assert [p.native for p in (UNIFORM, LOG, WHOLE, STEPPED)] == [True] * 4
    assert [p.native for p in (LOG_STEPPED, WEIGHTED, NORMAL, BETA)] == [False] * 4


# ---------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("demand", "yes", "no"),
    [
        ("lognorm", ["lognorm"], ["uniform", None, 1]),
        (["a", "b"], ["a", "b"], ["c"]),
        (1, [1, 1.0], [True, 2, "1"]),
        (True, [True], [1]),
        ("> 0.5", [0.51, 1], [0.5, 0.1, "x", True]),
        (">= 0.5", [0.5], [0.49]),
        ("<1e-3", [1e-4], [1e-3]),
        ("<= -2", [-2, -3], [-1.9]),
        ("!= uniform", ["lognorm"], ["uniform"]),
        ("== 3", [3], [4]),
        ({"min": 0.2, "max": 0.4}, [0.2, 0.3, 0.4], [0.19, 0.41]),
        ({"not": [1, 2]}, [3], [1, 2]),
    ],
)
def test_the_forms_of_a_condition(demand, yes, no):
    conditions = parse_condition("k", demand, parse_value)
    for value in yes:
        assert all(c.holds({"k": value}) for c in conditions)
    for value in no:
        assert not all(c.holds({"k": value}) for c in conditions)
    assert not all(c.holds({}) for c in conditions)  # a key without a value meets no demand


def test_a_condition_may_compare_two_keys():
    (condition,) = parse_condition("a.start", "> a.end", parse_value)
    assert condition == Condition(key="a.start", relation=">", other="a.end")
    assert condition.holds({"a.start": 0.7, "a.end": 0.3})
    assert not condition.holds({"a.start": 0.3, "a.end": 0.7})
    assert not condition.holds({"a.start": 0.3})


@pytest.mark.parametrize("demand", ["> big", {}, {"min": "a"}, {"low": 3}, []])
def test_a_senseless_condition_is_refused(demand):
    with pytest.raises(ValueError, match=r"compares|condition|empty"):
        parse_condition("k", demand, parse_value)


def test_equality_keeps_truth_and_numbers_apart():
    assert same([0.9, 1], [0.9, 1.0])
    assert not same([0.9, True], [0.9, 1])
    assert not same([1], [1, 2])
