"""A sweep of an own program on a real Ray cluster with a token: its files travel, it is stopped, goes on and ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from tests import ROOT
from tests.cluster.local_cluster import TOKEN, LocalCluster

pytestmark = pytest.mark.cluster
PROGRAM = """
import argparse, json, time
from pathlib import Path
from helper import height
from orchestrator import report
from orchestrator.reporting import checkpoint_folder

parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float)
x = parser.parse_args().x
print(f"training with x = {x} in {Path.cwd().name}, settings", json.loads(Path("settings.json").read_text()))
file = checkpoint_folder() / "step"
first = int(file.read_text()) if file.exists() else 0
for step in range(first + 1, 13):
    time.sleep(0.1 if first or x > 0.3 else 2)  # the first is stopped on its way
    file.write_text(str(step))
    report(step, loss=height(x) + 1 / step, began=first)
"""
SWEEP: dict[str, Any] = {
    "program": "train.py",
    "name": "sent",
    "method": "grid",
    "metric": {"name": "loss"},
    "parameters": {"x": {"values": [0.3, 0.5, 0.9]}},
    "early_terminate": {"type": "hyperband", "min_iter": 4, "eta": 3},
    "trainer": {"steps": 12},
}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_a_program_is_sent_stopped_and_goes_on_from_its_checkpoints(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_nodes(1)  # one trial at a time: what is pruned depends on no race
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    for name, text in {"train.py": PROGRAM, "helper.py": "def height(x):\n    return (x - 0.3) ** 2\n"}.items():
        Path(name).write_text(text)
    Path("settings.json").write_text('{"a": 1}')
    Path("train.yaml").write_text(yaml.safe_dump(SWEEP))

    def there(*words: str) -> str:
        # In a process of its own: Ray reads once, when it is imported, whether clusters want a token.
        command = [sys.executable, "-m", "orchestrator.cli", *words, "--address", cluster.address]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    paths = Home(cluster.home).sweep("sent")

    def reports(trial: str) -> int:
        try:
            found = {each.id: each for each in Ledger.open(paths).trials()}
        except LedgerError:  # the driver has not begun
            return 0
        return found[trial].steps if trial in found else 0

    there("submit", "train.yaml")
    wait_for(lambda: reports("0") >= 1)
    there("stop", "sent")
    wait_for(lambda: Ledger.open(paths).state().state == "stopped")
    assert "resumed" in there("resume", "sent")
    wait_for(lambda: Ledger.open(paths).state().state == "finished")

    trials = Ledger.open(paths).trials()
    assert [(trial.state.value, trial.steps) for trial in trials] == [("finished", 12), ("pruned", 4), ("pruned", 4)]
    assert sorted(trials[0].reports) == list(range(1, 13))
    assert trials[0].reports[12]["began"] >= 1
    log = there("logs", "0", "sent", "-n", "0")
    assert log.count("training with x = 0.3 in program, settings {'a': 1}") == 2
    there("best", "sent", "-o", "best.yaml")
    assert yaml.safe_load(Path("best.yaml").read_text())["x"] == 0.3
