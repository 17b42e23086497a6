"""A population over objectives with a teacher, or with a split that moves: a copied member is its donor, all of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from meanflow_core.config import load_config
from meanflow_core.training.checkpoint import load_checkpoint
from meanflow_core.training.trainer import Trainer
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.worker.checkpoints import CheckpointStore
from tests.orchestrator.simulation import open_engine

BASE = {
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "optimizer": {"lr": 1e-3},
    "ema": {"decays": [0.9]},
    "trainer": {"steps": 24, "eval_every": 8, "batch_size": 16, "log_every": 8, "device": "cpu"},
    "evaluation": {"samples": 20, "nfe": [1]},
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "split": {"name": "split", "teacher": 0.9, "time": {"ratio": 0.5}},
    "alphaflow": {"name": "alphaflow", "time": {"ratio": 0.5}},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_copied_member_goes_on_with_its_donors_weights_averages_teacher_and_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    donated: dict[tuple[str, int], dict[str, Any]] = {}
    adopt = CheckpointStore.adopt

    def noting(self: CheckpointStore, step: int, place: str) -> None:
        donated[self._paths.root.name, step] = load_checkpoint(place)
        adopt(self, step, place)

    monkeypatch.setattr(CheckpointStore, "adopt", noting)
    content = {
        "name": "herd",
        "base": {**BASE, "objective": OBJECTIVES[name]},
        "method": "pbt",
        "metric": {"name": "eval/fid_1nfe", "goal": "minimize"},
        "run_cap": 4,
        "parameters": {
            "optimizer.lr": {"min": 1e-4, "max": 1e-2},
            "objective.weight.power": {"min": 0.0, "max": 1.0},
        },
    }
    home = Home(tmp_path)
    engine = open_engine(home, content)
    with engine.ledger:
        run_inline(engine)
        trials = {trial.id: trial for trial in engine.ledger.trials()}
    changed = [trial for trial in trials.values() if [c["step"] for c in trial.labels.get("lineage", [])][-1:] == [16]]
    assert changed, "nobody was copied in the second generation"
    for trial in changed:
        paths = home.sweep("herd").trial(trial.id)
        end = load_checkpoint(paths.checkpoint(24))
        start = donated[paths.root.name, 16]
        assert start["config"]["optimizer"]["lr"] != end["config"]["optimizer"]["lr"]
        alone = Trainer(load_config(end["config"]))
        alone.load_state_dict(start)
        rows = dict(alone.train(8))
        expected = alone.state_dict()
        for part in ("net", "ema", "optimizer", *(["teacher"] if name == "split" else [])):
            torch.testing.assert_close(end[part], expected[part], rtol=0, atol=0)
        if (
            name == "alphaflow"
        ):  # 16 ... 23 of 24: the split is that of the whole training, wherever the weights are from
            assert 0 < rows[24]["train/split"] < 0.1
