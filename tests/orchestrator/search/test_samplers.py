"""The search: a pure function of the sweep, the position and the recorded trials, for every method."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.search.draws import Draw, Observation
from orchestrator.search.method import Method
from orchestrator.trials.trial import TrialState
from tests.orchestrator import toy

RICH: dict[str, Any] = {
    "parameters": {
        "x": {"min": 0.0, "max": 1.0},
        "y": {"values": [0.1, 0.4, 0.7]},
        "rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "depth": {"min": 1, "max": 6},
        "width": {"distribution": "q_log_uniform_values", "min": 8, "max": 512, "q": 8},
        "bias": {"distribution": "normal", "mu": 1.0, "sigma": 0.5},
        "share": {"distribution": "beta", "a": 2, "b": 5},
        "law": {"values": ["uniform", "lognorm"], "probabilities": [0.3, 0.7]},
        "mean": {"min": -2.0, "max": 0.4, "when": {"law": "lognorm"}},
        "pair": {"values": [[1, 2], [3, 4]]},
    },
    "forbid": [{"law": "uniform", "y": 0.7}],
}
EXTRA = {"rate": 1e-3, "depth": 2, "width": 8, "bias": 0.0, "share": 0.5, "law": "uniform", "mean": 0.0, "pair": [1, 2]}
METHODS = ("random", "qmc", "tpe", "cmaes", "gp", "nsga2")


def rich(method: str, **changes: Any) -> Method:
    content = toy.sweep(method=method, run_cap=20, **RICH, **changes)
    content["base"] = {**content["base"], **EXTRA}
    return toy.search(content)


def yes(values: dict[str, Any]) -> bool:
    return True


def seen(number: int, values: dict[str, Any], loss: float | None, **more: Any) -> Observation:
    fields = {"state": TrialState.FINISHED, "metrics": None if loss is None else (loss,), "step": 90}
    return Observation(number, values, **(fields | more))


def height(values: dict[str, Any]) -> float:
    return float((values["x"] - 0.3) ** 2 + (values["y"] - 0.4) ** 2 + 0.01 * values["depth"])


def searched(search: Method, count: int) -> list[Draw]:
    """Draw one after the other, each knowing the results of those before."""
    known: list[Observation] = []
    draws: list[Draw] = []
    for number in range(count):
        draw = search.draw(draws[-1].position + 1 if draws else 0, known, yes)
        assert draw is not None
        draws.append(draw)
        known.append(seen(number, draw.values, height(draw.values), sampler=draw.sampler))
    return draws


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_what_the_space_allows(method: str) -> None:
    search = rich(method)
    count = {"gp": 8}.get(method, 14)  # a gp takes a second for each after the fifth
    draws = searched(search, count)
    assert [search.space.problems(draw.values) for draw in draws] == [[]] * count
    assert len({json.dumps(draw.values) for draw in draws}) == count
    assert {"mean" in draw.values for draw in draws} == {True, False}


@pytest.mark.parametrize("method", METHODS)
def test_a_search_made_anew_goes_on_as_the_old_one_would_have(method: str) -> None:
    draws = searched(rich(method), 7 if method == "gp" else 13)
    known = [seen(n, draw.values, height(draw.values), sampler=draw.sampler) for n, draw in enumerate(draws)]
    for number in (0, 3, 6) if method == "gp" else (0, 3, 6, 12):
        position = draws[number - 1].position + 1 if number else 0
        survived = json.loads(json.dumps([[o.values, o.metrics, o.sampler] for o in known[:number]]))
        read_back = [seen(n, values, *metrics, sampler=s) for n, (values, metrics, s) in enumerate(survived)]
        assert rich(method).draw(position, read_back, yes) == draws[number]


def test_draws_are_the_same_in_another_process_and_differ_with_the_seed() -> None:
    script = (
        "import json; from tests.orchestrator.search.test_samplers import rich, searched\n"
        "print(json.dumps([d.values for m in ('random', 'qmc', 'tpe') for d in searched(rich(m, seed=4), 8)]))"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here = [draw.values for method in ("random", "qmc", "tpe") for draw in searched(rich(method, seed=4), 8)]
    assert json.loads(there.stdout) == json.loads(json.dumps(here))
    assert [draw.values for draw in searched(rich("random", seed=5), 8)] != here[:8]


@pytest.mark.parametrize("method", ["random", "qmc"])
def test_without_a_model_a_draw_depends_on_its_position_alone(method: str) -> None:
    search, other = rich(method), rich(method)
    draws = [search.draw(position, [], yes) for position in range(10)]
    worse = [seen(0, draws[0].values, 1.0)] if draws[0] else []
    assert [other.draw(position, worse, yes) for position in reversed(range(10))] == draws[::-1]


def test_a_grid_is_walked_in_its_order_without_the_forbidden() -> None:
    content = toy.grid(x=(0.1, 0.2), parameters={"x": {"values": [0.1, 0.2]}, "y": {"values": [1.0, 2.0]}})
    search = toy.search(content | {"forbid": [{"x": 0.1, "y": 2.0}]})
    draws = searched_without_results(search)
    assert [(draw.values["x"], draw.values["y"]) for draw in draws] == [(0.1, 1.0), (0.2, 1.0), (0.2, 2.0)]
    assert [draw.position for draw in draws] == [0, 1, 2]


def searched_without_results(search: Method) -> list[Draw]:
    draws: list[Draw] = []
    while (draw := search.draw(len(draws), [], yes)) is not None:
        draws.append(draw)
    return draws


def test_a_rejected_draw_is_followed_by_the_next_position() -> None:
    search = rich("random")
    first, second = (search.draw(position, [], yes) for position in (0, 1))
    assert first is not None
    assert search.draw(0, [], lambda values: values != first.values) == second


@pytest.mark.parametrize("method", ["random", "qmc", "tpe", "nsga2"])
def test_a_small_space_is_tried_out_to_the_last_combination(method: str) -> None:
    content = toy.sweep(method=method, run_cap=50, parameters={"x": {"values": [1, 2, 3]}, "y": {"values": [4, 5, 6]}})
    search = toy.search(content)
    tried: list[dict[str, Any]] = []
    position = 0
    while draw := search.draw(position, [seen(n, v, 1.0) for n, v in enumerate(tried)], lambda v: v not in tried):
        tried.append(draw.values)
        position = draw.position + 1
    assert len(tried) == 9


def test_a_space_whose_combinations_are_all_refused_is_exhausted_and_not_searched_forever() -> None:
    assert rich("random").draw(0, [], lambda values: False) is None


def test_forbid_that_leaves_nothing_is_an_error() -> None:
    content = toy.sweep(forbid=[{"x": {"min": 0.0}}])
    with pytest.raises(ConfigError, match="forbid"):
        toy.search(content).draw(0, [], yes)


def test_tpe_learns_to_avoid_where_trials_diverge() -> None:
    content = toy.sweep(method="tpe", run_cap=40, parameters={"x": {"min": 0.0, "max": 1.0}})
    search = toy.search(content)
    sound = [seen(i, {"x": (i + 0.5) / 24}, abs((i + 0.5) / 24 - 0.6)) for i in range(24)]

    def failed(observation: Observation, bad: bool) -> Observation:
        if observation.values["x"] < 0.5:
            return observation
        return seen(observation.number, observation.values, None, state=TrialState.FAILED, bad=bad)

    def share_above(known: list[Observation]) -> float:
        draws = [search.draw(position, known, yes) for position in range(100, 160)]
        return sum(draw is not None and draw.values["x"] > 0.5 for draw in draws) / len(draws)

    assert share_above(sound) > 0.3
    assert share_above([failed(observation, bad=True) for observation in sound]) < 0.1
    lost = [failed(observation, bad=False) for observation in sound]
    assert len(search.recorded(lost)) == 12  # a lost node says nothing about the configuration


@pytest.mark.parametrize("method", ["cmaes", "gp", "nsga2"])
def test_the_other_models_take_a_diverged_trial_for_the_worst_one(method: str) -> None:
    search = rich(method)
    draws = searched(search, 6)
    known = [seen(n, draw.values, float(n)) for n, draw in enumerate(draws)]
    known[2] = seen(2, draws[2].values, None, state=TrialState.FAILED, bad=True)
    shown = search.recorded(known)
    assert [trial.value for trial in shown] == [0.0, 1.0, 5.0, 3.0, 4.0, 5.0]


def test_a_trial_stopped_early_ranks_below_the_finished_by_how_far_it_came() -> None:
    search = rich("tpe")
    draws = searched(search, 3)
    known = [
        seen(0, draws[0].values, 3.0),
        seen(1, draws[1].values, 0.1, state=TrialState.PRUNED, step=30),
        seen(2, draws[2].values, None, state=TrialState.RUNNING),
    ]
    shown = search.recorded(known)
    assert [trial.state.name for trial in shown] == ["COMPLETE", "PRUNED", "RUNNING"]
    assert shown[1].intermediate_values == {30: 0.1}


def test_results_outside_of_the_space_are_not_shown_to_the_model() -> None:
    search = rich("tpe")
    draw = searched(search, 1)[0]
    outside = seen(0, {**draw.values, "x": 7.0}, 0.0)
    assert search.recorded([outside, seen(1, draw.values, 1.0)])[0].value == 1.0


def test_a_law_that_optuna_lacks_is_searched_over_its_quantiles_and_recorded_as_its_value() -> None:
    search = rich("tpe")
    draw = searched(search, 9)[-1]
    params = search.params(draw.values)
    assert 0 < params["bias"][0] < 1
    assert 0 < params["share"][0] < 1
    assert draw.values["width"] % 8 == 0
    assert params["y"][0] == draw.values["y"]
    assert json.loads(params["pair"][0]) == draw.values["pair"]


def test_several_metrics_are_all_shown() -> None:
    metrics = [{"name": "loss", "goal": "minimize"}, {"name": "size", "goal": "maximize"}]
    search = rich("nsga2", metric=None, metrics=metrics)
    known = [seen(0, draw.values, None, metrics=(1.0, 2.0)) for draw in searched(rich("random"), 1)]
    assert search.recorded(known)[0].values == [1.0, 2.0]
    assert search.draw(1, known, yes) is not None


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_of_a_long_sweep_tpe_is_shown_the_best_and_an_even_sample_of_the_others(goal: str) -> None:
    search = toy.search(toy.sweep(method="tpe", run_cap=2000, metric={"name": "loss", "goal": goal}))
    sign = 1.0 if goal == "minimize" else -1.0
    stopped = {"state": TrialState.PRUNED}
    known = [  # every tenth is finished, the later the better; a stopped one looks best of all, and is not
        seen(n, {"x": n / 1000, "y": 0.4}, sign * (1000 - n), step=90)
        if n % 10 == 0
        else seen(n, {"x": n / 1000, "y": 0.4}, -sign * 9999, step=30, **stopped)
        for n in range(1000)
    ]
    shown = [trial.params["x"] * 1000 for trial in search.shown(search.recorded(known))]
    assert len(shown) == 300
    assert shown == sorted(shown)
    assert {10.0 * n for n in range(75, 100)} <= {round(x, 6) for x in shown}
    for tenth in range(7):  # none of the best among them
        assert sum(100 * tenth <= x < 100 * (tenth + 1) for x in shown) == pytest.approx(275 * 100 / 975, abs=1)
    assert search.draw(1000, known, yes) == search.draw(1000, known, yes)
    assert len(search.shown(search.recorded(known[:300]))) == 300
