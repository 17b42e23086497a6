"""The code of docs/extending.md, put where the page says, does what the page says."""

import os
import re
import shutil
import subprocess
import sys
import typing

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from meanflow_core.config import (
    DigitsConfig,
    EvaluationConfig,
    MLPConfig,
    ObjectiveConfig,
    TimeConfig,
    WeightConfig,
    section,
)
from meanflow_core.data.build import build_dataset
from meanflow_core.derivative import dual
from meanflow_core.derivative.dual import RowDual
from meanflow_core.flow import times, weighting
from meanflow_core.metrics import build
from meanflow_core.objectives.loss import meanflow_loss
from tests import ROOT
from tests.meanflow_core.small_nets import batch

PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = dict(re.findall(r"^## (?:An?) ([\w ]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def code(section, index=0):
    return re.findall(r"^```python\n(.*?)^```", BLOCKS[section], re.MULTILINE | re.DOTALL)[index]


def run(source, namespace):
    space = dict(namespace)
    exec(source, space)
    return space


@pytest.fixture
def name_law(monkeypatch):
    """Put a word into the `Literal` of a section's `law`, as the page says, until the test ends."""

    def put(cls, word):
        known = typing.get_args(typing.get_type_hints(cls)["law"])
        monkeypatch.setitem(cls.__annotations__, "law", typing.Literal[(*known, word)])
        section.hints_of.cache_clear()
        section._choices.cache_clear()

    yield put
    monkeypatch.undo()
    section.hints_of.cache_clear()
    section._choices.cache_clear()


def test_a_law_of_the_times(monkeypatch, name_law):
    name_law(TimeConfig, "beta")
    monkeypatch.setattr(times, "LAWS", run(code("distribution of times"), vars(times))["LAWS"])
    law = TimeConfig(law="beta", ratio=0.0, order="mask_then_swap")
    _, t = times.sample_times(100_000, law, generator=torch.Generator().manual_seed(0))
    assert t.mean().item() == pytest.approx(2 / 3, abs=3e-3)  # of the density 2 t
    assert set(times.LAWS) == {"uniform", "lognorm", "beta"}


def test_a_weighting(monkeypatch, name_law):
    name_law(WeightConfig, "bounded")
    monkeypatch.setattr(weighting, "LAWS", run(code("weighting"), vars(weighting))["LAWS"])
    x, noise, r, t = batch((2,))
    chosen = ObjectiveConfig(weight=WeightConfig(law="bounded", eps=0.5))
    result = meanflow_loss(lambda z, r, t, labels: z, x, noise, r, t, objective=chosen)
    expected = result.squared_error / result.squared_error.clamp(min=0.5)
    torch.testing.assert_close(result.weighted, expected, rtol=1e-12, atol=0)


CHECK = """
import torch
from meanflow_core.config import PRESETS, ObjectiveConfig, load_config
from meanflow_core.objectives import meanflow_loss
from meanflow_core.training import Trainer
from tests.meanflow_core.objectives.test_targets import gaussian_field, on_the_exact_path

assert list(PRESETS)[-1] == "esd"
words = ["objective.name=esd", "objective.teacher=0.9", "objective.guidance.scale=2", "model.name=mlp", "model.width=8"]
config = load_config({}, [*words, "trainer.batch_size=16", "trainer.device=cpu"])
x, noise, r, t = on_the_exact_path()
assert meanflow_loss(gaussian_field, x, noise, r, t, objective=ObjectiveConfig(name="esd")).loss < 1e-22
trainer = Trainer(config)
before = trainer.net.outlet.weight.clone()
((_, row),) = trainer.train(3)
assert row["train/du_dt_norm"] >= 0 and not torch.equal(before, trainer.net.outlet.weight)
"""


def test_an_objective_is_one_line_and_one_file(tmp_path):
    """The line and the file of the page, put into a copy of the package."""
    package = tmp_path / "meanflow_core"
    shutil.copytree(ROOT / "meanflow_core", package, ignore=shutil.ignore_patterns("__pycache__"))
    presets = package / "config" / "objective_presets.py"
    line, end = code("objective"), '"lsd": Preset('
    assert len(line.strip().splitlines()) == 1
    presets.write_text(re.sub(rf"( +{re.escape(end)}.*\n)", lambda found: found[0] + line, presets.read_text()))
    (package / "objectives" / "esd.py").write_text(code("objective", 1))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_a_network():
    space = run(code("network"), {"nn": nn, "torch": torch, "F": F})
    torch.manual_seed(0)
    net = space["TwoLayers"](MLPConfig(width=5, depth=1), (2,), None).double()
    x, noise, r, t = batch((2,))
    one, other = (meanflow_loss(net, x, noise, r, t, objective=ObjectiveConfig(derivative=d)) for d in ("dual", "jvp"))
    assert one.du_dt.abs().max() > 1e-3
    torch.testing.assert_close(one.du_dt, other.du_dt, rtol=1e-12, atol=1e-12)


def test_a_rule_of_the_tangent(monkeypatch):
    for table in ("BY_NAME", "BY_FUNCTION"):
        monkeypatch.setattr(dual, table, dict(getattr(dual, table)))
    monkeypatch.setattr(RowDual, "expm1", None, raising=False)  # so that it is gone after the test
    run(code("network", 1), vars(dual))
    x, dx = torch.randn(3, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    for result in (torch.expm1(RowDual(x, dx)), RowDual(x, dx).expm1()):
        torch.testing.assert_close(result.tangent, x[:2].exp() * dx, rtol=1e-12, atol=1e-12)
        assert torch.equal(result.primal, torch.expm1(x))


def test_a_metric(monkeypatch):
    monkeypatch.setattr(build, "METRICS", dict(build.METRICS))
    run(code("metric"), vars(build))
    data = build_dataset(DigitsConfig())
    judge = build.build_evaluator(EvaluationConfig(metrics=["fid", "mean_distance"], samples=60), data)
    rows, labels = data.batch(torch.arange(60), generator=torch.Generator())
    values = judge.evaluate(rows, labels)
    assert 0 < values["mean_distance"] < judge.evaluate(torch.randn_like(rows), labels)["mean_distance"]
