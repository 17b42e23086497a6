"""Every objective, killed by SIGKILL between checkpoints and started again, ends with the bits of an undisturbed run.

One process imports torch and forks a child for each training; the child that is to die sends itself SIGKILL in the
middle of a step, so that nothing is flushed, closed or said.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from meanflow_core.config import PRESETS
from meanflow_core.run.folder import RunFolder
from meanflow_core.training.checkpoint import load_checkpoint
from tests.meanflow_core.training.test_checkpoint import equal

CONFIG = """\
seed: 7
model: {name: mlp, width: 12, depth: 1, dropout: 0.1}
optimizer: {lr: 0.003, warmup_steps: 3, schedule: cosine}
ema: {decays: [0.9, 0.99]}
trainer: {steps: 24, batch_size: 16, log_every: 4, eval_every: 24, checkpoint_every: 6, device: cpu}
evaluation: {samples: 20, nfe: [1]}
objective: {time: {ratio: 0.5}, guidance: {scale: 2.0, kappa: 0.5, dropout: 0.25}}
"""
LAST, DIES = 24, 15  # the checkpoint of step 12 is there; alphaflow's split lies between its limits
TOLD = [
    "objective.guidance.input=true", "objective.guidance.scale=null", "objective.guidance.kappa=0",
    "evaluation.guidance=[1, 2]",
]  # fmt: skip
OWN = [name for name, preset in PRESETS.items() if preset.leg == "own"]
KINDS = {
    **{name: [f"objective.name={name}"] for name in PRESETS if name not in OWN},
    **{f"{name}, teacher": [f"objective.name={name}", "objective.teacher=0.9"] for name in OWN},
    "imf, guidance as an input": ["objective.name=imf", *TOLD],
    "split, teacher, killed in a checkpoint": ["objective.name=split", "objective.teacher=0.9"],
    "meanflow, bf16, accumulated": ["trainer.precision=bf16", "trainer.accumulation=2"],
}
TRAIN = """
import json, os, signal, sys, time
from meanflow_core.__main__ import main
from meanflow_core.training import checkpoint
from meanflow_core.training.trainer import Trainer

config, root, kinds, dies = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
step, checksum = Trainer._train_step, checkpoint._checksum

def dying(self):
    if self.step == dies:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self)

def half_written(file):
    if "step-18" in str(file):
        time.sleep(0.01)  # in the writer's thread: the training is a few steps further
        os.kill(os.getpid(), signal.SIGKILL)
    return checksum(file)

def train(out, words, patch, sum=None):
    child = os.fork()
    if child == 0:
        Trainer._train_step, checkpoint._checksum = patch, sum or checksum
        os._exit(main(["train", config, "--out", f"{root}/{out}", *words]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

main(["train", config, "--out", f"{root}/first", "trainer.steps=2"])  # imports what is imported late
for name, words in kinds.items():
    writing = "in a checkpoint" in name
    ends = [
        train(f"{name}/killed", words, *([step, half_written] if writing else [dying])),
        train(f"{name}/killed", words, step),
        train(f"{name}/whole", words, step),
    ]
    print("END", json.dumps([name, ends]), flush=True)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of all trainings, and how each of them ended."""
    root = tmp_path_factory.mktemp("killed")
    (root / "small.yaml").write_text(CONFIG)
    words = [str(root / "small.yaml"), str(root), json.dumps(KINDS), str(DIES)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # a fork of several would lose the others
    command = [sys.executable, "-c", TRAIN, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
    lines = [line.removeprefix("END ") for line in done.stdout.splitlines() if line.startswith("END ")]
    return root, dict(map(json.loads, lines)), done


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_of_every_objective_ends_with_the_bits_of_an_undisturbed_one(trained, kind):
    root, ends, done = trained
    assert ends[kind] == [-signal.SIGKILL, 0, 0], done.stderr
    killed, whole = (RunFolder(root / kind / name) for name in ("killed", "whole"))
    states = [load_checkpoint(folder.checkpoints / f"step-{LAST}") for folder in (killed, whole)]
    assert ("teacher" in states[0]) == ("teacher" in kind)
    assert all(state["net"] for state in states)
    assert not list(killed.checkpoints.glob(".*")), "what was half written is gone"
    assert all(entry["step"].item() == LAST for entry in states[0]["optimizer"].values())
    for state in states:
        del state["last_finite"]["train/steps_per_second"]
    assert equal(*states)
    logs = [[json.loads(line) for line in folder.metrics.read_text().splitlines()] for folder in (killed, whole)]
    for row in logs[0] + logs[1]:
        row.pop("train/steps_per_second", None)
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [4, 6, 8, 12, 16, 18, 20, 24, 24]
