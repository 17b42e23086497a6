"""Compiled trainings on CUDA graphs: the numbers of eager mode, and the memory given back afterwards."""

from __future__ import annotations

import gc

import torch

from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import trainer, training
from scripts.gpu_check.waits import waiting_is_an_error


def graphs(setting: Setting) -> Figures:
    """Train eagerly and compiled, evaluating in between; then release the compiled one."""
    figures: Figures = {}
    rules = {}
    for model, steps in (("mlp", 30), ("dit", 10)) if setting.on_gpu else (("mlp", 2),):
        losses = {}
        for compiled in (False, True):
            made = trainer(training(setting, model, guided=True, trainer__compile=compiled, trainer__log_every=1))
            rows = made.train(steps)
            scores = made.evaluate()
            rows += made.train(steps)
            losses[compiled] = [row["train/squared_error"] for _, row in rows]
            with waiting_is_an_error(setting):
                made._train_step()
            speed = rows[-1][1]["train/steps_per_second"]
            figures[f"{model} {'compiled' if compiled else 'eager'} steps_per_second"] = round(speed, 1)
            del made, scores
        pairs = zip(*losses.values(), strict=True)
        apart = max(abs(a - b) / a for a, b in pairs)
        figures[f"{model} losses_apart"] = float(f"{apart:.1e}")
        rules[f"{model}_compiled_equals_eager"] = apart < 2e-2
    if setting.on_gpu:
        figures["after_training"] = _memory()
        gc.collect()
        torch.cuda.empty_cache()
        figures["after_collecting"] = _memory()
        _reset()
        figures["after_reset"] = _memory()
        rules["graphs_are_released"] = figures["after_reset"]["reserved_mib"] < 64
    return demand(figures, **rules)


def _reset() -> None:
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def _memory() -> dict[str, float]:
    return {
        "tensors": sum(1 for thing in gc.get_objects() if isinstance(thing, torch.Tensor) and thing.is_cuda),
        "allocated_mib": round(torch.cuda.memory_allocated() / 2**20, 1),
        "reserved_mib": round(torch.cuda.memory_reserved() / 2**20, 1),
    }
