"""Every search with every rule of early stopping, and with all that the language has beside them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from meanflow_core.config.yaml_file import read_yaml
from meanflow_core.errors import ConfigError
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.planning.plan import make_plan
from orchestrator.search import METHODS
from orchestrator.search import RULES as STOPPING
from orchestrator.trials.trial import TrialRecord, TrialState
from tests.orchestrator import toy
from tests.orchestrator.simulation import Trace, run

RULES: dict[str, dict[str, Any] | None] = {
    "asha": {"type": "asha", "min_iter": 10, "eta": 3},
    "promote": {"type": "asha", "min_iter": 10, "eta": 2, "promote": True, "brackets": 2},
    "hyperband": {"type": "hyperband", "max_iter": 90, "s": 2, "eta": 3},
    "median": {"type": "median", "min_iter": 30, "warmup_trials": 2},
    "percentile": {"type": "percentile", "percentile": 40, "min_iter": 30, "warmup_trials": 2},
    "patience": {"type": "patience", "patience": 1, "min_delta": 0.4, "min_iter": 30},
    "threshold": {"type": "threshold", "upper": 1.2, "min_iter": 30},
    "none": {"type": "none"},
}
PAIRS = list(itertools.product(METHODS, RULES))
SEVERAL = [{"name": "loss", "goal": "minimize"}, {"name": "size", "goal": "maximize"}]


def size(method: str, rule: str) -> int:
    """How many trials a search has. A gp takes seconds to ask: only its sixth trial is its own, so it has one once."""
    return {"grid": 10, "gp": 5 + (rule == "promote")}.get(method, 5)


def warm(method: str, rule: str) -> bool:
    """Whether a sweep learns from another one; a model that has something to learn from takes its time."""
    return method != "gp" and (method != "tpe" or rule in ("promote", "none"))


def sweep(method: str, rule: str, **changes: Any) -> dict[str, Any]:
    """A sweep with conditions, forbidden combinations, zipped keys, `set`, replicates and a warm start."""
    content = toy.sweep(
        f"{method}-{rule}",
        method=method,
        run_cap=None if method == "grid" else size(method, rule),
        early_terminate=RULES[rule],
        parameters={
            "x": {"values": [0.7, 0.2]} if method == "grid" else {"min": 0.0, "max": 1.0},
            "law": {"values": ["a", "b"]},
            "z": {"min": 1, "max": 2, "when": {"law": "b"}},
            "width": {"values": [64, 128]},
            "depth": {"values": [8, 4]},
        },
        forbid=[{"law": "a", "x": {"max": 0.5}}],
        zip=[["width", "depth"]],
        set={"y": 0.6},
        replicates={"top": 2, "seeds": 1},
        warm_start=["first"] if warm(method, rule) else None,
        on_duplicate="run",  # what one sweep has trained, the next trains too
    )
    content["base"] = {**content["base"], "law": "a", "z": 0, "width": 1, "depth": 1}
    return {key: value for key, value in (content | changes).items() if value is not None}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where a sweep of the same space has finished, for the others to start from."""
    home = Home(tmp_path_factory.mktemp("home"))
    run(home, sweep("random", "none", name="first", warm_start=None, seed=5))
    return home


def allowed(values: dict[str, Any]) -> bool:
    """Whether bounds, conditions, zipped keys and forbidden combinations are kept to."""
    zipped = (values["width"], values["depth"]) in ((64, 8), (128, 4))
    conditional = ("z" in values) == (values["law"] == "b") and values.get("z", 1) in (1, 2)
    return zipped and conditional and 0 <= values["x"] <= 1 and (values["law"] == "b" or values["x"] > 0.5)


def check_ends(trials: list[TrialRecord], rule: str) -> None:
    """Each trial ended, where its rule may end one."""
    steps = {"asha": [10, 30], "promote": [10, 20, 40, 80], "hyperband": [10, 30], "none": []}.get(rule, [30, 60])
    for trial in trials:
        finished = trial.state is TrialState.FINISHED
        assert finished or trial.state is TrialState.PRUNED, trial
        assert trial.steps == 90 if finished else trial.steps in steps, trial


@pytest.mark.parametrize(("method", "rule"), PAIRS)
def test_a_search_and_a_rule_work_together_with_all_else_or_are_refused(home: Home, method: str, rule: str) -> None:
    content = sweep(method, rule)
    if method == "pbt" and rule != "none":
        with pytest.raises(ConfigError, match="replaces bad trials by itself"):
            toy.spec(content)
        return
    spec, trace = toy.spec(content), Trace()
    plan = make_plan(spec)
    trials = run(home, content, workers=2, trace=trace)
    search = [trial for trial in trials if not trial.replicate]
    more = [trial for trial in trials if trial.replicate]
    ledger = Ledger.open(home.sweep(content["name"]))
    assert ledger.state().state == "finished"
    assert len(search) == plan.trials == size(method, rule)
    assert 0 < len(more) <= plan.replicates == 2
    assert all(trial.state is TrialState.FINISHED and trial.seed == 1 for trial in more)
    assert {trial.config_id for trial in more} <= {trial.config_id for trial in search if trial.steps == 90}
    check_ends(search, rule)
    assert rule in ("none", "patience", "threshold", "median", "percentile") or any(t.steps < 90 for t in search)
    assert [trial.id for trial in trials if not allowed(dict(trial.values))] == []
    assert {read_yaml(ledger.paths.trial(trial.id).config).content["y"] for trial in trials} == {0.6}
    assert len(ledger.warm()) == (5 if warm(method, rule) and method != "grid" else 0)  # its numbers are others
    started = [trial for trial, start in trace.handed if start == 0]
    assert sorted(started) == sorted(trial.id for trial in trials)  # each is trained once


@pytest.mark.parametrize(("method", "rule"), PAIRS)
def test_several_metrics_are_searched_by_those_who_know_them_and_refused_by_the_others(
    home: Home, method: str, rule: str
) -> None:
    content = sweep(method, rule, name=f"several-{method}-{rule}", metric=None, metrics=SEVERAL)
    refused = {"method": method in ("cmaes", "pbt")}
    refused["early_terminate"] = rule not in ("none", "threshold") or (method == "pbt" and rule != "none")
    if any(refused.values()):
        with pytest.raises(ConfigError) as caught:
            toy.spec(content)
        assert {problem.key for problem in caught.value.problems} == {key for key, wrong in refused.items() if wrong}
        return
    trials = run(home, content, workers=2)
    search = [trial for trial in trials if not trial.replicate]
    assert len(search) == make_plan(toy.spec(content)).trials
    check_ends(search, rule)
    assert all(allowed(dict(trial.values)) and {"loss", "size"} <= trial.reports[30].keys() for trial in trials)


def test_every_rule_is_among_those_tried(tmp_path: Path) -> None:
    assert {rule["type"] for rule in RULES.values() if rule} == set(STOPPING)
