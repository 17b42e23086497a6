"""Priors: what a file may say, the density that it means, and how it fades in each search method."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.search.draws import Observation
from orchestrator.space.prior import FLOOR, Prior
from orchestrator.spec import read_spec
from orchestrator.spec.published import PUBLISHED
from orchestrator.trials import TrialState
from tests.orchestrator import toy

CENTER = {"center": 0.8, "spread": 0.1}


def parameter(**shape: Any) -> Any:
    (found,) = toy.spec(toy.sweep(parameters={"x": shape})).space.parameters
    return found


def mean_of(found: Any, power: float, count: int = 2000) -> float:
    return fmean(found.believed((at + 0.5) / count, power) for at in range(count))


# ------------------------------------------------------------------------------------------------ densities


def test_draws_at_full_power_have_the_law_and_at_none_the_parameter_s_own() -> None:
    found = parameter(min=0.0, max=1.0, prior=CENTER)
    law = NormalDist(0.8, 0.1)
    inside = law.cdf(1.0) - law.cdf(0.0)
    # the mean of a truncated normal distribution, with the share that is spread evenly
    truncated = 0.8 - 0.1 * (law.pdf(1.0) - law.pdf(0.0)) * 0.1 / inside
    assert mean_of(found, 1.0) == pytest.approx((1 - FLOOR) * truncated + FLOOR * 0.5, abs=2e-3)
    assert mean_of(found, 0.0) == pytest.approx(0.5, abs=1e-3)
    # at power 1/2: the square root of the density, that of the even share too
    grid = [(at + 0.5) / 4000 for at in range(4000)]
    root = [math.sqrt((1 - FLOOR) * law.pdf(x) / inside + FLOOR) for x in grid]
    expected = math.fsum(r for r, x in zip(root, grid, strict=True) if x < 0.75) / math.fsum(root)
    half = [found.believed(u, 0.5) for u in grid]
    assert sum(value < 0.75 for value in half) / 4000 == pytest.approx(expected, abs=3e-3)


def test_the_density_is_relative_to_the_parameter_s_own_distribution() -> None:
    own = parameter(distribution="normal", mu=2.0, sigma=3.0, prior={"distribution": "normal", "mu": 2.0, "sigma": 3.0})
    assert [own.log_prior(value) for value in (-4.0, 2.0, 8.0)] == pytest.approx([0.0] * 3, abs=1e-5)
    moved = parameter(distribution="normal", mu=2.0, sigma=3.0, prior={"center": 5.0, "spread": 1.5})
    expected = NormalDist(5.0, 1.5).pdf(4.0) / NormalDist(2.0, 3.0).pdf(4.0)
    assert moved.log_prior(4.0) == pytest.approx(math.log(expected), abs=0.05)


def test_of_a_logarithmic_range_the_spread_is_a_factor() -> None:
    found = parameter(distribution="log_uniform_values", min=1e-5, max=1e-1, prior={"center": 1e-3, "spread": 3.0})
    shares = [found.believed((at + 0.5) / 3000, 1.0) for at in range(3000)]
    within = sum(1e-3 / 3 < value < 3e-3 for value in shares) / 3000
    assert within == pytest.approx((1 - FLOOR) * 0.6827 + FLOOR * 2 * math.log(3) / math.log(1e4), abs=0.01)


@pytest.mark.parametrize(
    "shape",
    [
        {"min": 3, "max": 40, "distribution": "int_uniform"},
        {"distribution": "q_log_uniform_values", "min": 2, "max": 64, "q": 2},
        {"distribution": "q_normal", "mu": 20, "sigma": 30, "q": 5},
        {"values": [4, 8, 16, 30]},
        {"distribution": "q_beta", "a": 2, "b": 2, "q": 0.05, "prior": {"center": 0.3, "spread": 0.1}},
    ],
)
def test_numbers_on_a_lattice_or_a_list_gather_around_the_centre(shape: dict[str, Any]) -> None:
    log = "log" in shape.get("distribution", "")
    prior = shape.get("prior", {"center": 16, "spread": 2 if log else 6})
    center, spread = prior["center"], prior["spread"]
    found = parameter(**{**shape, "prior": prior})
    values = [found.believed((at + 0.5) / 500, 1.0) for at in range(500)]
    assert all(found.contains(value) for value in values)
    assert values == sorted(values)
    near = [1 / spread <= value / center <= spread if log else abs(value - center) <= spread for value in values]
    assert 0.55 < fmean(near) < 0.85
    assert abs(values[250] - center) <= max(spread / 3, found.step or 0)


def test_a_list_has_the_probabilities_that_it_is_given() -> None:
    found = parameter(values=["a", "b", "c"], prior={"probabilities": [0.1, 0.2, 0.7]})
    drawn = [found.believed((at + 0.5) / 1000, 1.0) for at in range(1000)]
    assert drawn.count("c") / 1000 == pytest.approx((1 - FLOOR) * 0.7 + FLOOR / 3, abs=2e-3)
    weighted = parameter(values=["a", "b"], probabilities=[0.9, 0.1], prior={"probabilities": [0.5, 0.5]})
    assert [weighted.believed((at + 0.5) / 1000, 1.0) for at in range(1000)].count("a") == pytest.approx(504, abs=2)


def test_nothing_is_ever_left_out() -> None:
    prior = Prior.of([0.0, 0.25, 1.0], [1.0, 0.0], "all below")
    assert prior.log_density(0.9) == pytest.approx(math.log(FLOOR))
    assert prior.moved(0.999999, 1.0) > 0.9
    assert prior.mode == 0.125


# ---------------------------------------------------------------------------------------------- in searches


def observed(values: dict[str, Any], number: int, value: float) -> Observation:
    return Observation(number, values, TrialState.FINISHED, (value,), step=90, reports={90: value}, length=90)


def proposals(method: str, prior: Any, *, count: int, seen: int, run_cap: int = 40) -> list[float]:
    """What a search proposes after `seen` results that say nothing of x, in sweeps of several seeds."""
    shape = {"min": 0.0, "max": 1.0, **({} if prior is None else {"prior": prior})}
    found = []
    for seed in range(count):
        content = toy.sweep(
            method=method, seed=seed, run_cap=run_cap, parameters={"x": shape, "y": {"min": 0.0, "max": 1.0}}
        )
        chance = random.Random(seed)
        rows = [{"x": chance.random(), "y": chance.random()} for _ in range(seen)]
        known = [observed(row, number, 1.0 + row["y"]) for number, row in enumerate(rows)]
        draw = toy.search(content).draw(seen, known, lambda values: True)
        found.append(draw.values["x"])
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["random", "qmc", "tpe", "gp", "cmaes"])
def test_every_search_begins_where_the_prior_is(method: str) -> None:
    assert fmean(proposals(method, CENTER, count=30, seen=0)) == pytest.approx(
        0.8, abs=0.08 if method != "cmaes" else 0.3
    )
    assert fmean(proposals(method, None, count=30, seen=0)) == pytest.approx(0.5, abs=0.15)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["tpe", "gp"])
def test_a_model_leans_on_the_prior_and_less_so_the_more_it_has_seen(method: str) -> None:
    def near(values: Iterable[float]) -> float:
        return fmean(abs(value - 0.8) for value in values)

    few, many = (near(proposals(method, CENTER, count=8, seen=seen, run_cap=120)) for seen in (12, 48))
    plain = near(proposals(method, None, count=8, seen=12, run_cap=120))
    assert few < 0.75 * plain
    assert few < many


def test_it_fades_as_in_the_paper() -> None:
    search = toy.search(toy.sweep(run_cap=80, parameters={"x": {"min": 0.0, "max": 1.0, "prior": CENTER}}))
    assert [search.fading(count) for count in (1, 8, 16, 80)] == [1.0, 1.0, 0.5, 0.1]
    short = toy.search(toy.sweep(run_cap=5, parameters={"x": {"min": 0.0, "max": 1.0, "prior": CENTER}}))
    assert [short.fading(count) for count in (1, 4, 5)] == [1.0, 1.0, 0.8]
    assert [short.belief(position) for position in (0, 1, 4, 5)] == [1.0, 0.0, 0.8, 0.0]
    assert toy.search(toy.sweep()).fading(1) == 0.0


def test_a_parameter_that_is_not_there_has_no_say() -> None:
    content = toy.sweep(
        parameters={
            "k": {"values": ["a", "b"]},
            "x": {"min": 0.0, "max": 1.0, "prior": CENTER, "when": {"k": "a"}},
        }
    )
    space = toy.spec(content).space
    assert space.log_prior({"k": "b"}) == 0.0
    assert space.log_prior({"k": "a", "x": 0.8}) > 1.0 > -1.0 > space.log_prior({"k": "a", "x": 0.1})


# ------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("shape", "key", "said", "close"),
    [
        ({"min": 0.0, "max": 1.0, "prior": {"center": 1.5, "spread": 0.1}}, "prior.center", "lies outside", None),
        ({"min": 0.0, "max": 1.0, "prior": {"center": 0.5}}, "prior", "needs `spread`", None),
        ({"min": 0.0, "max": 1.0, "prior": {"centre": 0.5, "spread": 0.1}}, "prior.centre", "unknown key", "center"),
        ({"min": 0.0, "max": 1.0, "prior": {"center": 0.5, "spread": 0}}, "prior.spread", "0 < spread", None),
        ({"min": 0.0, "max": 1.0, "prior": {"center": "x", "spread": 1}}, "prior.center", "number", None),
        ({"min": 0.0, "max": 1.0, "prior": "publishd"}, "prior", "must be `published`", "published"),
        ({"min": 0.0, "max": 1.0, "prior": "published"}, "prior", "objective.time.ratio", None),
        ({"min": 0.0, "max": 1.0, "prior": {"distribution": "normal", "mu": 9.0}}, "prior", "almost nothing", None),
        ({"min": 0.0, "max": 1.0, "prior": {"distribution": "norml"}}, "prior.distribution", "one of", "normal"),
        ({"min": 0.0, "max": 1.0, "prior": {"distribution": "normal", "sigma": -1}}, "prior.sigma", "0 < sigma", None),
        ({"min": 0.0, "max": 1.0, "prior": {"min": 0.0, "max": 1.0, "prior": CENTER}}, "prior.prior", "no place", None),
        ({"min": 0.0, "max": 1.0, "prior": {"values": [1, 2]}}, "prior", "a range's a distribution", None),
        ({"value": 3, "prior": CENTER}, "prior", "one value", None),
        ({"values": ["a", "b"], "prior": CENTER}, "prior", "needs `probabilities`", None),
        ({"values": ["a", "b"], "prior": {"probabilities": [1.0]}}, "prior.probabilities", "for each of the 2", None),
        ({"values": [1, 9], "prior": {"center": 5, "spread": 0.01}}, "prior.spread", "so small", None),
        (
            {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2, "prior": {"center": 1e-3, "spread": 0.5}},
            "prior.spread", "1 < spread", None,
        ),
    ],
)  # fmt: skip
def test_what_is_no_prior_is_told_with_its_place(shape: dict[str, Any], key: str, said: str, close: str | None) -> None:
    with pytest.raises(ConfigError) as error:
        toy.spec(toy.sweep(parameters={"x": shape, "y": {"values": [1, 2]}}))
    problems = error.value.problems
    assert problems[0].key == f"parameters.x.{key}", problems
    assert said in problems[0].rule
    assert problems[0].nearest == close


def test_the_line_of_a_wrong_prior_is_said(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "base: {}\nmethod: random\nrun_cap: 2\nmetric: {name: eval/fid_1nfe}\nparameters:\n"
        "  objective.time.ratio:\n    min: 0.8\n    max: 0.9\n    prior: published\n"
    )
    with pytest.raises(ConfigError) as error:
        read_spec(file)
    (problem,) = error.value.problems
    assert (problem.line, problem.key) == (9, "parameters.objective.time.ratio.prior")
    assert "(0.25, 0.75) lie outside" in problem.rule


def test_a_zipped_key_has_none() -> None:
    lists = {"x": {"values": [1, 2], "prior": {"probabilities": [0.5, 0.5]}}, "y": {"values": [3, 4]}}
    with pytest.raises(ConfigError, match="is of one key alone"):
        toy.spec(toy.sweep(parameters=lists, zip=[["x", "y"]]))


def test_a_search_that_has_no_use_for_one_says_so() -> None:
    lists = {"x": {"values": [1, 2], "prior": {"probabilities": [0.3, 0.7]}}}
    notes = toy.spec(toy.sweep(parameters=lists, method="grid", run_cap=None)).notes
    assert any("x.prior: is not used: grid" in note for note in notes)
    assert not toy.spec(toy.sweep(parameters=lists)).notes


def test_what_is_published_is_that_of_both_set_ups() -> None:
    ranges: dict[str, Any] = {
        "objective.time.ratio": {"min": 0.0, "max": 1.0, "distribution": "uniform"},
        "objective.time.law": {"values": ["uniform", "lognorm"]},
        "objective.weight.power": {"values": [0.0, 0.5, 0.75, 1.0]},
    }
    content = {
        "name": "p", "base": {}, "method": "random", "run_cap": 4, "metric": {"name": "eval/fid_1nfe"},
        "parameters": {key: {**shape, "prior": "published"} for key, shape in ranges.items()},
    }  # fmt: skip
    found = {p.name: p for p in read_spec(content).space.parameters}
    ratio = found["objective.time.ratio"]
    assert ratio.log_prior(0.25) == pytest.approx(ratio.log_prior(0.75), abs=0.05)
    assert ratio.log_prior(0.25) > ratio.log_prior(0.5) + 0.5 > ratio.log_prior(0.0)
    law = found["objective.time.law"]
    assert math.exp(law.log_prior("lognorm")) == pytest.approx((1 - FLOOR) * 1.6 + FLOOR)
    power = found["objective.weight.power"]
    assert max(power.choices, key=power.log_prior) in (0.75, 1.0)
    assert min(power.choices, key=power.log_prior) == 0.0
    assert set(ranges) < set(PUBLISHED)
    assert "prior published: 0.25, 0.75" in str(ratio)
