"""The space: what YAML describes is what is sampled, counted and listed."""

import random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meanflow_core.errors import ConfigError
from orchestrator.planning.plan import make_plan
from orchestrator.space.condition import holds
from orchestrator.spec.sweep import read_spec

TRAINER = "somewhere.else:Trainer"  # its keys are free, so a space can have any shape


def spec_of(tmp_path, parameters, **other):
    content = {
        "trainer": TRAINER,
        "method": "random",
        "metric": {"name": "m"},
        "run_cap": 5,
        "set": {"trainer.steps": 10},
        "parameters": parameters,
        **other,
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_spec(path)


# ------------------------------------------------------------------------------ YAML -> space -> samples

values = st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True)
RANGES = [
    {"min": 1, "max": 4},
    {"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 0.2},
    {"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 8},
]
CONTINUOUS = [
    {"min": -1.0, "max": 2.5},
    {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
    {"distribution": "normal", "mu": 3, "sigma": 0.5},
    {"distribution": "log_normal", "mu": 0.5, "sigma": 0.5, "max": 4},
    {"distribution": "q_normal", "mu": 3, "q": 0.5},
]


@st.composite
def spaces(draw, kinds):
    """A random sweep's parameters, zip and forbid; conditions name only parameters before them."""
    names = [f"p{i}" for i in range(draw(st.integers(1, 4)))]
    parameters = {}
    for index, name in enumerate(names):
        parameters[name] = dict(draw(st.one_of(values.map(lambda v: {"values": v}), st.sampled_from(kinds))))
        listed = [other for other in names[:index] if "values" in parameters[other]]
        if listed and draw(st.booleans()):
            other = draw(st.sampled_from(listed))
            some = draw(st.lists(st.sampled_from(parameters[other]["values"]), min_size=1, unique=True))
            parameters[name]["when"] = {other: draw(st.sampled_from([some[0], some, {"min": some[0]}, "> 2"]))}
    forbid = []
    for _ in range(draw(st.integers(0, 2))):
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        forbid.append({name: draw(st.sampled_from(["> 3", "<= 1", {"min": 2, "max": 4}])) for name in chosen})
    found = {"parameters": parameters, "forbid": forbid}
    rows = draw(st.integers(2, 3))
    if draw(st.booleans()):
        parameters["za"] = {"values": draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows, unique=True))}
        parameters["zb"] = {"values": draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows, unique=True))}
        found["zip"] = [["za", "zb"]]
    return found


def brute_force(found):
    """Count a grid the naive way: the product of all lists, with a mark for what does not exist."""
    grid = [{}]
    listed = dict(found["parameters"])
    rows = list(zip(listed.pop("za")["values"], listed.pop("zb")["values"], strict=True)) if "zip" in found else []
    for name, definition in listed.items():
        grid = [
            {**point, name: value} if meets(definition.get("when", {}), point) else point
            for point in grid
            for value in (enumerated(definition) if meets(definition.get("when", {}), point) else [None])
        ]
    if rows:
        grid = [{**point, "za": a, "zb": b} for point in grid for a, b in rows]
    return [point for point in grid if not any(meets(entry, point) for entry in found["forbid"])]


def enumerated(definition):
    if "values" in definition:
        return definition["values"]
    return {1: [1, 2, 3, 4], 0.1: [0.2, 0.4, 0.6, 0.8], 8: [8, 16, 24, 32, 40, 48, 56, 64]}[definition["min"]]


def meets(demands, point):
    def one(value, demand):
        if isinstance(demand, dict):
            return demand.get("min", -1e9) <= value <= demand.get("max", 1e9)
        if isinstance(demand, str):
            return value > float(demand[1:]) if demand[0] == ">" else value <= float(demand[2:])
        return value in demand if isinstance(demand, list) else value == demand

    return all(key in point and one(point[key], demand) for key, demand in demands.items())


def read_or_none(tmp_path, found, **other):
    """A condition that can never hold is refused by the reader; such draws are no test of the space."""
    try:
        return spec_of(tmp_path, found["parameters"], **{k: v for k, v in found.items() if k != "parameters"}, **other)
    except ConfigError as error:
        if all("never" in str(p) or "forbids all" in str(p) for p in error.problems):
            return None
        raise


@settings(max_examples=60, deadline=None)
@given(found=spaces(RANGES))
def test_a_grid_is_exactly_what_conditions_zips_and_forbids_leave(found, tmp_path_factory):
    spec = read_or_none(tmp_path_factory.mktemp("grid"), found, method="grid")
    if spec is None:
        return
    expected = brute_force(found)
    grid = list(spec.space.grid())
    assert spec.space.grid_size() == len(grid) == len(expected)
    key = repr
    assert sorted((sorted(p.items()) for p in grid), key=key) == sorted((sorted(p.items()) for p in expected), key=key)
    assert all(spec.space.problems(point) == [] for point in grid)


@settings(max_examples=60, deadline=None)
@given(found=spaces(RANGES + CONTINUOUS), seed=st.integers(0, 2**20))
def test_samples_meet_bounds_conditions_and_forbids(found, seed, tmp_path_factory):
    spec = read_or_none(tmp_path_factory.mktemp("draw"), found)
    if spec is None:
        return
    chance = random.Random(seed)
    for _ in range(170):  # of sixty spaces: ten thousand samples
        point = spec.space.suggest(lambda p: p.from_unit(chance.random()))
        problems = spec.space.problems(point)
        forbidden = any(meets(entry, point) for entry in found["forbid"])
        assert problems == (["the combination is forbidden"] if forbidden else [])
        for name, definition in found["parameters"].items():
            assert (name in point) == meets(definition.get("when", {}), point)
            ends = {end: definition[end] for end in ("min", "max") if end in definition}
            if name in point:
                assert meets({name: ends}, point)
                assert point[name] in definition.get("values", [point[name]])
        if "zip" in found:
            rows = zip(found["parameters"]["za"]["values"], found["parameters"]["zb"]["values"], strict=True)
            assert (point["za"], point["zb"]) in list(rows)


# ------------------------------------------------------------------------------------------- by examples


def test_a_parameter_stands_after_what_its_condition_names(tmp_path):
    parameters = {"b": {"values": [1, 2], "when": {"a": [5, 6]}}, "a": {"values": [4, 5, 6]}, "c": {"values": [0]}}
    space = spec_of(tmp_path, parameters).space
    assert space.names == ("a", "b", "c")
    assert list(space.grid()) == [
        {"a": 4, "c": 0},
        {"a": 5, "b": 1, "c": 0},
        {"a": 5, "b": 2, "c": 0},
        {"a": 6, "b": 1, "c": 0},
        {"a": 6, "b": 2, "c": 0},
    ]
    assert space.grid_size() == 5


def test_a_condition_on_a_parameter_that_does_not_exist_does_not_hold(tmp_path):
    parameters = {
        "a": {"values": [1, 2]},
        "b": {"values": [1, 2], "when": {"a": 2}},
        "c": {"values": [7, 8, 9], "when": {"b": {"not": 1}}},
    }
    space = spec_of(tmp_path, parameters).space
    assert [sorted(point) for point in space.grid()] == [["a"], ["a", "b"], *[["a", "b", "c"]] * 3]


def test_a_constant_is_part_of_set_unless_it_has_a_condition(tmp_path):
    parameters = {"a": {"values": [1, 2]}, "b": {"value": 3}, "c": {"value": 4, "when": {"a": 2}}}
    spec = spec_of(tmp_path, parameters, forbid=[{"b": 3, "a": 1}])
    assert spec.set["b"] == 3
    assert list(spec.space.grid()) == [{"a": 2, "c": 4}]
    assert spec.config_for({"a": 2, "c": 4}) == {"trainer": {"steps": 10}, "a": 2, "b": 3, "c": 4}


def test_the_chooser_is_asked_for_what_exists_and_varies_alone(tmp_path):
    parameters = {
        "a": {"values": [1, 2]},
        "b": {"min": 0.0, "max": 1.0, "when": {"a": 2}},
        "c": {"value": 4, "when": {"a": 1}},
        "d": {"values": [10, 20]},
        "e": {"values": ["x", "y"]},
    }
    space = spec_of(tmp_path, parameters, zip=["d", "e"]).space
    asked = []

    def chooser(parameter):
        asked.append(parameter.name)
        return parameter.values()[0]

    assert space.suggest(chooser) == {"a": 1, "c": 4, "d": 10, "e": "x"}
    assert asked == ["a", "d+e"]
    assert space.names == ("a", "b", "c", "d", "e")


def test_problems_of_a_combination_are_named(tmp_path):
    parameters = {"a": {"values": [1, 2]}, "b": {"min": 0.0, "max": 1.0, "when": {"a": 2}}, "c": {"min": 3, "max": 4}}
    space = spec_of(tmp_path, parameters, forbid=[{"a": 1, "c": 4}]).space
    assert space.problems({"a": 1, "c": 3}) == []
    assert space.problems({"a": 1, "b": 0.5, "c": 3}) == ["b does not exist here (its `when` does not hold)"]
    assert space.problems({"a": 2, "c": 3}) == ["b is missing"]
    assert "c = 5 is outside of int_uniform 3 .. 4" in space.problems({"a": 1, "c": 5})
    assert space.problems({"a": 1, "c": 4}) == ["the combination is forbidden"]
    assert space.problems({"a": 1, "c": 3, "z": 0}) == ["z is no parameter"]


def test_a_grid_over_a_continuous_range_names_it_and_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError) as caught:
        spec_of(tmp_path, {"a": {"values": [1]}, "b": {"min": 0.0, "max": 1.0}}, method="grid")
    (problem,) = caught.value.problems
    assert problem.key == "parameters.b"
    assert problem.line is not None
    assert "values" in problem.rule
    assert "q_" in problem.rule


def test_a_large_product_is_counted_without_walking_through_it(tmp_path):
    parameters = {f"p{i}": {"min": 1, "max": 1000} for i in range(5)}
    assert spec_of(tmp_path, parameters, method="grid", run_cap=3).space.grid_size() == 1000**5


def test_what_forbids_everything_is_an_error_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="forbids all"):
        spec_of(tmp_path, {"a": {"values": [1, 2]}}, forbid={"a": "> 0"})


def test_a_forbid_may_compare_two_parameters(tmp_path):
    parameters = {"g.start": {"values": [0.1, 0.5]}, "g.end": {"values": [0.3, 0.9]}}
    space = spec_of(tmp_path, parameters, forbid={"g.start": "> g.end"}).space
    assert [(p["g.start"], p["g.end"]) for p in space.grid()] == [(0.1, 0.3), (0.1, 0.9), (0.5, 0.9)]


def test_the_plan_counts_what_the_grid_yields(tmp_path):
    parameters = {"a": {"values": [1, 2, 3]}, "b": {"min": 1, "max": 4, "when": {"a": "!= 2"}}}
    spec = spec_of(tmp_path, parameters, forbid={"a": 3, "b": "> 2"}, method="grid", run_cap=100)
    plan = make_plan(spec)
    assert plan.trials == plan.grid_size == len(list(spec.space.grid())) == 4 + 1 + 2
    assert not any(holds(spec.space.forbid[0], point) for point in spec.space.grid())
