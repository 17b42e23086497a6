"""A sweep on a Ray cluster of several nodes with a token, driven from another folder as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meanflow_core.yamlfile import write_yaml
from orchestrator.journal import LedgerError
from orchestrator.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.records import TrialRecord, TrialState
from tests.cluster.local_cluster import TOKEN, LocalCluster
from tests.orchestrator import toy_trainers as toys

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.cluster


def meansweep(*words: str, token: str | None = TOKEN, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Type a command on the laptop: no home, no Ray, only the token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MEANSWEEP_"))}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(cwd)}
    if token is not None:
        environment["RAY_AUTH_TOKEN"] = token
    command = [sys.executable, "-m", "orchestrator.cli", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=180)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.3)
    return found


def trials(cluster: LocalCluster, name: str) -> list[TrialRecord]:
    try:
        return Ledger.open(Home(cluster.home).sweep(name)).trials()
    except LedgerError:  # not there yet
        return []


def running(cluster: LocalCluster, name: str) -> list[TrialRecord]:
    return [trial for trial in trials(cluster, name) if trial.state is TrialState.RUNNING]


def write_sweep(folder: Path, name: str, hold: Path, **changes: Any) -> Path:
    """Write a sweep of two trials of three reports, which wait before the last one until the file `hold` exists."""
    base = {**toys.config(steps=6, eval_every=2, hold=hold, hold_step=5), "seed": 0}
    (folder / "base.yaml").write_text(write_yaml(base))
    content = {
        "name": name,
        "base": "base.yaml",
        "trainer": "tests.orchestrator.toy_trainers:Toy",
        "method": "grid",
        "metric": {"name": "eval/score"},
        "parameters": {"toy.x": {"values": [0.2, 0.8]}},
        "retries": 0,
        **changes,
    }
    file = folder / f"{name}.yaml"
    file.write_text(write_yaml(content))
    return file


def test_a_sweep_on_a_cluster_outlives_a_node_and_uses_one_that_joins(cluster: LocalCluster, tmp_path: Path) -> None:
    first = cluster.add_node()
    hold = tmp_path / "go"
    write_sweep(tmp_path, "roam", hold)
    sent = meansweep("submit", "roam.yaml", "--address", cluster.address, cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.splitlines()[-1] == "roam"
    wait_for(lambda: any(trial.steps == 4 for trial in trials(cluster, "roam")), "two reports of the first trial")
    assert len(running(cluster, "roam")) == 1  # one node with one CPU
    cluster.add_node()
    wait_for(lambda: len(running(cluster, "roam")) == 2, "a trial on the node that joined")

    cluster.kill(first)
    hold.touch()
    wait_for(lambda: all(t.state is TrialState.FINISHED for t in trials(cluster, "roam")), "the sweep's end", 180)
    roamed, other = trials(cluster, "roam")
    assert [(failure.kind, failure.step) for failure in roamed.attempts] == [("lost", 4)]  # no retries, yet it went on
    assert other.attempts == ()
    alone = toys.Toy(toys.config(x=0.2))
    alone.train(6)
    assert roamed.reports[6] == alone.evaluate()
    log = Home(cluster.home).sweep("roam").trial("0").log.read_text()
    assert "attempt 1: from step 4" in log  # its last checkpoint

    status = meansweep("status", "roam", "--json", "--address", cluster.address, cwd=tmp_path)
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["trials"]["finished"] == 2
    board = meansweep("leaderboard", "roam", "--json", f"--address={cluster.address}", cwd=tmp_path)
    assert [row["trial"] for row in json.loads(board.stdout)] == ["0", "1"]


def test_a_sweep_is_stopped_and_resumed_from_the_laptop(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.add_node()
    hold, at = tmp_path / "go", ("--address", cluster.address)
    write_sweep(tmp_path, "paused", hold)
    assert meansweep("submit", "paused.yaml", *at, cwd=tmp_path).returncode == 0
    wait_for(lambda: any(trial.steps == 4 for trial in trials(cluster, "paused")), "two reports of a trial")
    again = meansweep("submit", "paused.yaml", *at, cwd=tmp_path)
    assert again.returncode == 2
    assert "runs on" in again.stderr
    stopped = meansweep("stop", "paused", *at, cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    paths = Home(cluster.home).sweep("paused")
    hold.touch()
    wait_for(lambda: Ledger.open(paths).state().state == "stopped", "the sweep to stop")
    followed = meansweep("resume", "paused", "--follow", *at, cwd=tmp_path)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert [(trial.state, trial.failure) for trial in trials(cluster, "paused")] == [(TrialState.FINISHED, None)] * 2


def test_a_missing_and_a_wrong_token_are_explained(cluster: LocalCluster, tmp_path: Path) -> None:
    write_sweep(tmp_path, "closed", tmp_path)
    missing = meansweep("submit", "closed.yaml", "--address", cluster.address, token=None, cwd=tmp_path)
    assert missing.returncode == 1
    assert "no token" in missing.stderr
    assert "~/.ray/auth_token" in missing.stderr
    wrong = meansweep("submit", "closed.yaml", "--address", cluster.address, token="0" * 32, cwd=tmp_path)
    assert wrong.returncode == 1
    assert "refuses this token" in wrong.stderr


def test_a_cluster_that_is_not_there_is_told_with_the_way_to_it(tmp_path: Path) -> None:
    write_sweep(tmp_path, "nowhere", tmp_path)
    gone = meansweep("submit", "nowhere.yaml", "--address", "http://127.0.0.1:9", cwd=tmp_path)
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stderr
    assert "ssh -L" in gone.stderr
