"""Checkpoints written by a thread: what is written is the state of the moment, and the training goes on meanwhile."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from meanflow_core.training.background import BackgroundWriter
from meanflow_core.training.checkpoint import load_checkpoint, save_checkpoint, take_snapshot
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import trainer, training


def saving(setting: Setting) -> Figures:
    """Write a checkpoint while the training goes on, and look whether it is that of the step it was asked at."""
    size = {"model__width": setting.size(768, 32), "model__depth": setting.size(12, 2)}
    made = trainer(training(setting, "dit", trainer__batch_size=setting.size(64, 16), **size))
    made.train(3)
    weights = {name: tensor.cpu().clone() for name, tensor in made.net.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder, BackgroundWriter() as writer:
        place = Path(folder) / "checkpoint"
        began = time.monotonic()
        snapshot = take_snapshot(made.state_dict())
        copied = time.monotonic() - began
        ended: list[float] = []

        def write() -> None:
            save_checkpoint(place, snapshot)
            ended.append(time.monotonic() - began)

        writer.begin(write)
        steps = 0
        while not ended or steps < 2:
            made._train_step()
            steps += 1
            if setting.on_gpu:
                torch.cuda.synchronize()
        writer.finish()
        state = load_checkpoint(place)
        size_mib = sum(file.stat().st_size for file in place.iterdir()) / 2**20
    figures: Figures = {
        "checkpoint_mib": round(size_mib, 1),
        "seconds_to_copy": round(copied, 3),
        "seconds_to_write": round(ended[0] - copied, 3),
        "steps_meanwhile": steps,
    }
    same = all(torch.equal(tensor, weights[name]) for name, tensor in state["net"].items())
    return demand(figures, it_is_the_state_of_its_step=same and state["step"] == 3, the_training_went_on=steps >= 2)
