"""A training on this device: resumed, evaluated, and paired with the same seed on a CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from meanflow_core.distributed import World
from meanflow_core.training.batches import Batches
from meanflow_core.training.checkpoint import load_checkpoint, save_checkpoint
from meanflow_core.training.trainer import Trainer
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import relative, trainer, training


def resume(setting: Setting) -> Figures:
    """Train, save, go on; and go on from what was saved, in a new trainer. Evaluate both."""
    figures: Figures = {}
    rules = {}
    for model in ("mlp", "dit", "unet"):
        config = training(setting, model, guided=True)
        first = trainer(config)
        first.train(20)
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(Path(folder) / "at20", first.state_dict())
            rows = first.train(20)
            again = Trainer(config)
            again.load_state_dict(load_checkpoint(Path(folder) / "at20"))
        again.train(20)
        distance = relative(_vector(again), _vector(first))
        scores = first.evaluate(), again.evaluate()
        apart = max(abs(scores[0][key] - scores[1][key]) / abs(scores[0][key]) for key in scores[0])
        figures[model] = {
            "weights_apart": float(f"{distance:.1e}"),
            "scores_apart": float(f"{apart:.1e}"),
            "loss": round(rows[-1][1]["train/loss"], 4),
            "steps_per_second": round(rows[-1][1]["train/steps_per_second"], 1),
            **{key: round(value, 4) for key, value in scores[0].items() if key.startswith("eval/fid")},
        }
        rules[f"{model}_resumes"] = distance < 1e-4 and apart < 1e-2
    return demand(figures, **rules)


def _vector(made: Trainer) -> torch.Tensor:
    return torch.cat([weight.detach().flatten().double() for weight in made.net.parameters()])


def paired(setting: Setting) -> Figures:
    """Compare what a step sees, and ten steps of training, on this device and on a CPU, for one seed."""
    config = training(setting, "dit", guided=True)
    cpu = training(Setting("cpu"), "dit", guided=True)
    parts: list[Any] = []
    for this in (config, cpu):
        made = Trainer(this)
        parts.append(next(Batches(this, made.dataset, made.device, World()).parts(7, 448)))
    names = ("x", "noise", "r", "t", "labels", "dropped")
    equal = {name: bool(torch.equal(getattr(parts[0], name).cpu(), getattr(parts[1], name))) for name in names}
    losses = [trainer(this).train(10)[-1][1]["train/squared_error"] for this in (config, cpu)]
    apart = abs(losses[0] - losses[1]) / losses[1]
    figures = {"equal": equal, "squared_error": [round(loss, 5) for loss in losses], "apart": float(f"{apart:.1e}")}
    return demand(figures, equal_seeds_see_equal_batches=all(equal.values()), losses_agree=apart < 1e-3)
