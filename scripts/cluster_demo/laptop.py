"""The user's side: a folder elsewhere in which commands are typed, and the sweep files in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from meanflow_core.config.yaml_file import write_yaml
from scripts.cluster_demo.claims import ClaimFailed, say
from tests import ROOT
from tests.cluster.local_cluster import TOKEN, LocalCluster

SWEEP, PAIR, SHARED, METRIC = "digits-cluster", "digits-pair", "shared", "eval/fid_1nfe"


@dataclass(frozen=True)
class Size:
    """How much is done."""

    trials: int
    steps: int
    """Of a trial."""
    final_steps: int
    width: int
    samples: int
    outage: float
    """Seconds without MLflow, at least."""


SHORT = Size(trials=4, steps=400, final_steps=600, width=48, samples=200, outage=2)
LONG = Size(trials=6, steps=600, final_steps=3000, width=128, samples=1000, outage=60)


class Laptop:
    """A folder elsewhere, from which commands are typed; it has the cluster's token, no more."""

    def __init__(self, folder: Path, cluster: LocalCluster, mlflow: str) -> None:
        self.folder, self.address = folder, cluster.address
        own = ("RAY_", "MEANSWEEP_", "MLFLOW_")
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(own)},
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "RAY_AUTH_TOKEN": TOKEN,
            "MLFLOW_TRACKING_URI": mlflow,
        }

    def types(
        self, command: str, *, there: bool = True, code: int = 0, token: str | None = TOKEN
    ) -> subprocess.CompletedProcess[str]:
        """Type `meansweep COMMAND` and expect an exit code.

        Args:
            command: its words.
            there: with the cluster's address.
            code: the exit code.
            token: of the cluster; None: there is none here.
        """
        began = time.monotonic()
        environment = {key: value for key, value in self.environment.items() if key != "RAY_AUTH_TOKEN"}
        done = subprocess.run(
            self._words(command, there), cwd=self.folder, capture_output=True, text=True, timeout=600,
            env={**environment, **({} if token is None else {"RAY_AUTH_TOKEN": token})},
        )  # fmt: skip
        output = (done.stdout + done.stderr).rstrip()
        told = [f"$ meansweep {command}{' --address http://...' if there else ''}"]
        told += [f"          | {line[:150]}" for line in output.splitlines()[-14:]]
        say("\n".join([*told, f"          {time.monotonic() - began:.1f} s"]))
        if done.returncode != code:
            raise ClaimFailed(f"`meansweep {command}` ends with {code}; found: {done.returncode}\n{output}")
        return done

    def begins(self, command: str, output: Path) -> subprocess.Popen[bytes]:
        """Type a command that goes on by itself, its output going to a file."""
        say(f"$ meansweep {command} --address http://... &")
        with output.open("wb") as stream:
            return subprocess.Popen(
                self._words(command, True), cwd=self.folder, env=self.environment, stdout=stream, stderr=stream
            )

    def python(self, program: str) -> str:
        """Run a program of a few lines and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if done.returncode:
            raise ClaimFailed(f"a program on the laptop ends well; found: {done.stderr}")
        return done.stdout

    def _words(self, command: str, there: bool) -> list[str]:
        address = ["--address", self.address] if there else []
        return [sys.executable, "-m", "orchestrator.cli", *command.split(), *address]


def write_sweeps(folder: Path, size: Size) -> None:
    """Write the sweep's file, those of a trial with two workers and of the bucket, and their base configuration."""
    base = {
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": size.width, "depth": 3},
        "objective": {"time": {"law": "lognorm", "mean": -0.4, "ratio": 0.25}, "guidance": {"scale": 1.5}},
        "optimizer": {"lr": 3.0e-3, "beta2": 0.999, "warmup_steps": 50, "clip_norm": 1.0},
        "ema": {"decays": [0.99 if size is SHORT else 0.999]},
        "trainer": {
            "steps": size.final_steps, "batch_size": 128, "log_every": 50, "eval_every": size.final_steps // 4,
            "checkpoint_every": size.final_steps // 12,
        },
        "evaluation": {"samples": size.samples, "nfe": [1]},
    }  # fmt: skip
    sweep = {
        "name": SWEEP,
        "base": "base.yaml",
        "set": {"trainer.steps": size.steps, "trainer.eval_every": size.steps // 4},
        "method": "random",
        "metric": {"name": METRIC, "goal": "minimize"},
        "run_cap": size.trials,
        "parameters": {
            "objective.guidance.scale": {"min": 1.0, "max": 2.5},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1.0e-3, "max": 4.0e-3},
        },
        "resources": {"cpu": 1},
        "retries": 0,
    }
    pair = {**sweep, "name": PAIR, "run_cap": 1, "resources": {"cpu": 1, "workers": 2}}
    pair["set"] = {"trainer.steps": 2 * size.steps, "trainer.eval_every": size.steps // 4}
    shared = {**sweep, "name": SHARED, "run_cap": 2}
    for name, content in (("base", base), ("sweep", sweep), ("pair", pair), ("shared", shared)):
        (folder / f"{name}.yaml").write_text(write_yaml(content))
