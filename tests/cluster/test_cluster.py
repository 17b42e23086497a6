"""A sweep on a Ray cluster of several nodes with a token, driven from another folder as a user does."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli.main import run
from tests import ROOT
from tests.cluster.local_cluster import TOKEN


@pytest.mark.cluster
def test_a_sweep_outlives_its_node_mlflow_and_its_driver_and_its_winner_is_trained_registered_and_sampled(tmp_path):
    picture = tmp_path / "samples.png"
    command = [sys.executable, "-m", "scripts.cluster_demo", "--short", "--picture", str(picture)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    played = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        told, _ = played.communicate(timeout=1500)
    except BaseException:
        played.terminate()  # it clears up what it has started
        told, _ = played.communicate()
        print(told)
        raise
    assert played.returncode == 0, told
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
    assert pixels.std() > 20  # ink on paper


def test_a_cluster_that_is_not_there_is_told_with_the_way_to_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)  # Ray remembers it in this process
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert run(["status", "s", "--address", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert "cannot be reached" in said
    assert "ssh -L" in said
