"""Every YAML example of docs/sweeps.md, and every sweep of the repository, is read and planned."""

import re

import pytest
import yaml

from meanflow_core.config import valid_keys
from orchestrator.planning.plan import make_plan, render_plan
from orchestrator.search import METHODS, RULES
from orchestrator.spec.read_parameters import DISTRIBUTIONS, EXPONENTS
from orchestrator.spec.read_settings import NOT_NEEDED
from orchestrator.spec.sweep import read_spec
from orchestrator.spec.sweep_file import KEYS
from tests import ROOT

DOCS = (ROOT / "docs" / "sweeps.md").read_text()
BLOCKS = [
    (DOCS[: match.start()].count("\n") + 1, match[1]) for match in re.finditer(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
]
SWEEPS = sorted(path for path in (ROOT / "sweeps").rglob("*.yaml") if path.parent.name != "configs")
SKELETON = {  # what an example that shows one key leaves out
    "base": {"model": {"name": "mlp", "width": 64}},
    "set": {"trainer.steps": 20_000},
    "method": "random",
    "metric": {"name": "eval/fid_1nfe"},
    "run_cap": 4,
    "parameters": {"optimizer.lr": {"values": [1e-3, 1e-4]}},
}


@pytest.mark.parametrize(("line", "text"), BLOCKS, ids=[f"line {line}" for line, _ in BLOCKS])
def test_an_example_of_the_docs_is_read_and_planned(line, text, tmp_path):
    content = yaml.safe_load(text)
    if "metrics" in content:
        content = {**SKELETON, **content}
        del content["metric"]
    elif not {"method", "metric", "parameters"} <= set(content):
        content = {**SKELETON, **content}
    path = tmp_path / "example.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    plan = make_plan(read_spec(path), resources_available={"cpu": 8, "gpu": 2, "fast_disk": 4})
    assert plan.trials or plan.trials is None
    assert plan.over_budget == ()
    assert render_plan(plan).startswith(plan.sweep)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_the_sweeps_of_the_repository_are_read_and_planned(path):
    assert make_plan(read_spec(path)).estimate.trainings > 0


def test_the_docs_have_every_word_of_the_language():
    shown = "\n".join(text for _, text in BLOCKS)
    assert [key for key in KEYS if not re.search(rf"^{key}:", shown, re.MULTILINE)] == []
    unnamed = [word for word in (*METHODS, *RULES, *DISTRIBUTIONS, *EXPONENTS, *NOT_NEEDED) if f"`{word}`" not in DOCS]
    assert unnamed == ["categorical_w_probabilities"]  # W&B's other name for `categorical` with `probabilities`


def test_what_the_tables_of_the_docs_say_of_single_examples(tmp_path):
    def plan_of(**content):
        path = tmp_path / "example.yaml"
        path.write_text(yaml.safe_dump({**SKELETON, **content}))
        spec = read_spec(path)
        return spec, make_plan(spec)

    _, plan = plan_of(early_terminate={"type": "hyperband", "max_iter": 27000, "s": 2, "eta": 3})
    assert plan.rungs == (3000, 9000)
    spec, _ = plan_of(parameters={"objective.weight.power": {"min": 0, "max": 2}})
    assert [p.kind for p in spec.space.parameters] == ["int"]
    assert "2.0" not in spec.notes[0]
    assert "objective.weight.power" in spec.notes[0]


def test_the_names_in_the_docs_are_keys_of_the_training_configuration():
    named = set(re.findall(r"`((?:objective|model|optimizer|trainer|evaluation|ema|data)\.[a-z_.]+[a-z])`", DOCS))
    assert named - set(valid_keys()) == set()
