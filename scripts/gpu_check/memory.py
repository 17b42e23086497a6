"""Running out of memory: what it is called, and that the process goes on after it."""

from __future__ import annotations

import torch

from orchestrator.worker.failure_kinds import classify
from orchestrator.worker.trial_loop import free_memory
from scripts.gpu_check.check import Figures, NotRun, Setting, demand
from scripts.gpu_check.nets import trainer, training


def out_of_memory(setting: Setting) -> Figures:
    """Train with a batch that does not fit into what this process may take, then with one that does."""
    if not setting.on_gpu:
        raise NotRun("needs a GPU")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2**30 / total)  # 1 GiB, as if that was all there is
    kind, reason = "none", ""
    try:
        made = trainer(training(setting, "unet", trainer__batch_size=16384))
        made.train(2)
    except Exception as error:
        found = classify(error)
        kind, reason = found.kind, found.reason
        del error, found
    made = None  # type: ignore[assignment]
    free_memory()
    held = torch.cuda.memory_reserved() / 2**20
    rows = trainer(training(setting, "unet")).train(10)
    figures = {
        "class": kind,
        "reason": reason[:200],
        "held_after_mib": round(held, 1),
        "loss_after": round(rows[-1][1]["train/loss"], 4),
    }
    return demand(figures, classified=kind == "oom", given_back=held < 64)
