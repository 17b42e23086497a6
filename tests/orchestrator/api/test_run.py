"""`run` in a process of the user's own: on Ray, with a trainer that stands beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meanflow_core.errors import ConfigError
from orchestrator import run
from tests import ROOT
from tests.orchestrator import toy

TRAINER = """
class Line:
    def __init__(self, config):
        self.config, self.step = config, 0

    def train(self, steps):
        self.step += steps
        return {}

    def evaluate(self):
        return {"loss": self.config["x"] + 1 / self.step}

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]
"""
PROGRAM = """
import os

from orchestrator import list_sweeps, open_sweep, run

content = {
    "name": "lines",
    "trainer": "line:Line",
    "base": {"trainer": {"steps": 4, "eval_every": 2}},
    "method": "grid",
    "metric": {"name": "loss"},
    "parameters": {"x": {"values": [3, 1, 2]}},
    "max_concurrent": 1,
}
sweep = run(content, run_cap=2)
sweep.extend(1)
again = open_sweep("lines").resume()
print("values", [row["loss"] for _, row in again.leaderboard().iterrows()])
print("sweeps", list(list_sweeps()["sweep"]), "RAY_USAGE_STATS_ENABLED" in os.environ)
"""


def test_a_cell_that_is_run_again_goes_on_with_its_sweep_and_with_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    first = run(toy.sweep(run_cap=2), inline=True, resume=True)
    with pytest.raises(ConfigError, match="exists already and has finished"):
        run(toy.sweep(run_cap=2), inline=True)
    capsys.readouterr()
    again = run(toy.sweep(run_cap=2), inline=True, resume=True)
    assert "toy has finished" in capsys.readouterr().out
    assert list(again.trials()["trial"]) == list(first.trials()["trial"]) == ["0", "1"]
    again.extend(1)
    assert len(run(toy.sweep(run_cap=2), inline=True, resume=True).trials()) == 3
    with pytest.raises(ConfigError, match=r"resume: there is a sweep of this name, and this file differs .*retries"):
        run(toy.sweep(run_cap=2, retries=7), inline=True, resume=True)


@pytest.mark.ray
def test_a_plain_process_runs_a_sweep_on_a_ray_of_its_own_quietly_and_goes_on_with_it_there(tmp_path: Path) -> None:
    (tmp_path / "line.py").write_text(TRAINER)
    environment = {
        key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED")
    }
    environment |= {
        **{"MEANSWEEP_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        **{"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    }
    done = subprocess.run(
        [sys.executable, "-"],
        **{"input": PROGRAM, "cwd": tmp_path, "env": environment},
        **{"capture_output": True, "text": True, "timeout": 300},
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in told if line.startswith("trial ")] == [
        f"trial {trial} finished at step 4" for trial in range(3)
    ]
    assert told[-2:] == ["values [1.25, 2.25, 3.25]", "sweeps ['lines'] False"]
    assert {line.split()[0] for line in told} == {"driving", "trial", "values", "sweeps"}
    assert [line for line in done.stderr.splitlines() if "MLflow" not in line] == []  # Ray and its workers are quiet
    [log] = tmp_path.rglob("driver.log")
    assert log.read_text().count("Started a local Ray instance") == 2
