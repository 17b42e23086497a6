"""The search methods and the rule of docs/extending.md, put where the page says, do what the page says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from meanflow_core.errors import ConfigError
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.planning.plan import make_plan
from orchestrator.search import METHODS, RULES
from orchestrator.spec.json_schema import sweep_schema
from orchestrator.trials.trial import TrialState
from tests import ROOT
from tests.orchestrator import toy
from tests.orchestrator.simulation import run

PAGE = (ROOT / "docs" / "extending.md").read_text()
SMALL = {"x": {"values": [0.1, 0.3, 0.9]}, "y": {"values": [0.1, 0.7]}, "z": {"min": 1, "max": 2, "when": {"y": 0.7}}}


def module_below(heading: str, folder: Path) -> ModuleType:
    """The code below a heading as a module in a file of its own."""
    block = re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block, heading
    name = heading.replace(" ", "_").lower()
    file = folder / f"{name}.py"
    file.write_text(block[1])
    found = importlib.util.spec_from_file_location(name, file)
    assert found, file
    assert found.loader, file
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = module_below("A search method", tmp_path)
    for method in (module.BruteForce, module.Nsga3):
        monkeypatch.setitem(METHODS, method.name, method)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rule = module_below("A rule of early stopping", tmp_path).Jump
    monkeypatch.setitem(RULES, rule.name, rule)


def marks(content: dict[str, Any]) -> list[str]:
    content = {key: value for key, value in content.items() if key != "base"}
    return [error.message for error in jsonschema.Draft202012Validator(sweep_schema()).iter_errors(content)]


@pytest.mark.usefixtures("methods")
def test_a_sampler_of_optuna_that_walks_the_whole_space_tries_each_combination_once(tmp_path: Path) -> None:
    content = toy.sweep(method="brute", run_cap=None, parameters=SMALL)
    content["base"] = {**content["base"], "z": 0}
    plan = make_plan(toy.spec(content))
    trials = run(Home(tmp_path), content, workers=2)
    assert plan.trials == len(trials) == 9  # z is there with y = 0.7 alone
    assert len({str(sorted(trial.values.items())) for trial in trials}) == 9
    assert marks(content) == []


@pytest.mark.usefixtures("methods")
def test_a_sampler_of_optuna_finds_its_generations_again(tmp_path: Path) -> None:
    metrics = [{"name": "loss", "goal": "minimize"}, {"name": "size", "goal": "maximize"}]
    content = toy.sweep(method="nsga3", run_cap=20, metric=None, metrics=metrics)
    trials = run(Home(tmp_path), content)
    assert [trial.state for trial in trials] == [TrialState.FINISHED] * 20
    random = run(Home(tmp_path / "random"), {**content, "method": "random"})
    assert [trial.values for trial in trials[8:]] != [trial.values for trial in random[8:]]
    generations = {str(history.birth.sampler) for history in Ledger.open(Home(tmp_path).sweep("toy")).histories()}
    assert len(generations) == 3  # of eight, eight and four


@pytest.mark.parametrize("word", ["brute", "nsga3", "tpr", "Grid", ""])
def test_an_unknown_method_is_refused_and_never_runs_as_another_one(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        toy.spec(toy.sweep(method=word))
    (problem,) = caught.value.problems
    assert problem.key == "method"
    assert problem.value == word
    assert all(method in problem.rule for method in METHODS)


@pytest.mark.usefixtures("rules")
def test_a_rule_brings_its_keys_their_limits_and_its_part_of_the_schema(tmp_path: Path) -> None:
    content = toy.sweep(early_terminate={"type": "jump", "factor": 1.5, "min_iter": 30})
    assert marks(content) == []
    for wrong, key in (({"factor": 1}, "factor"), ({"factr": 2}, "factr"), ({"eta": 3}, "eta")):
        broken = {**content, "early_terminate": {"type": "jump", **wrong}}
        with pytest.raises(ConfigError) as caught:
            toy.spec(broken)
        assert [problem.key for problem in caught.value.problems] == [f"early_terminate.{key}"]
        assert marks(broken)
    rising = {"trainer": "tests.orchestrator.search.test_extending:Rising", "run_cap": 3}
    trials = run(Home(tmp_path), {**content, **rising})
    assert {trial.state for trial in trials} == {TrialState.PRUNED}
    assert {trial.steps for trial in trials} == {60}
    assert trials[0].reason.startswith("jump: from 1 to 3")


class Rising(toy.Curve):
    """Its metric triples with each report."""

    def evaluate(self) -> dict[str, float]:
        return {"loss": 3.0 ** (self.step / 30 - 1)}
