"""A program of a few lines and a sweep of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PROGRAM = """
import argparse, os, signal, time
from orchestrator.reporting import checkpoint_folder, report

parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float, required=True)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--nap", type=float, default=0.0)
given = parser.parse_args()
assert given.x < 0.95, "x is too large"
state = checkpoint_folder() / "step"
first = int(state.read_text()) if state.exists() else 0
for step in range(first + 1, 10):
    time.sleep(given.nap)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a step that is saved is reported too
    state.with_suffix(".new").write_text(str(step))
    state.with_suffix(".new").replace(state)
    report(step, loss=(given.x - 0.3) ** 2 + 1 / step + 1e-3 * given.seed, began=first)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
"""
SWEEP: dict[str, Any] = {
    "program": "train.py",
    "name": "own",
    "method": "grid",
    "metric": {"name": "loss"},
    "parameters": {"x": {"values": [0.3, 0.5, 0.9, 0.7]}},
}


def written(folder: Path, text: str = PROGRAM, **changes: Any) -> Path:
    (folder / "train.py").write_text(text)
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
    return folder / "sweep.yaml"
