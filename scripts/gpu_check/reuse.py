"""What trials share in a worker: graphs, for any numbers; and what recomputing activations saves."""

from __future__ import annotations

import gc
import time

import torch
from torch._dynamo.utils import counters

from meanflow_core.training.graphs import bytes_of_graphs
from orchestrator.worker.process import leftover_memory
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import trainer, training

NUMBERS = (
    {"objective__guidance__omega": 1.3, "objective__guidance__kappa": 0.45, "objective__weight__power": 0.7},
    {"objective__guidance__omega": 0.9, "objective__guidance__kappa": 0.6, "objective__weight__power": 0.3},
    {"objective__guidance__omega": 1.1, "objective__guidance__kappa": 0.2, "objective__weight__power": 0.9},
    {"objective__guidance__omega": 1.2, "objective__guidance__kappa": 0.3, "objective__weight__power": 0.6},
)


def reuse(setting: Setting) -> Figures:
    """Train compiled trials with other numbers, one after the other: how fast each begins, its graphs and memory."""
    figures: Figures = {"trials": []}
    steps = setting.size(30, 1)
    for numbers in NUMBERS[: setting.size(4, 2)]:
        began = time.monotonic()
        made = trainer(training(setting, "mlp", trainer__compile=True, **numbers))
        made.train(3)
        first = time.monotonic() - began
        rate = made.train(steps)[-1][1]["train/steps_per_second"]
        del made
        gc.collect()
        if setting.on_gpu:
            torch.cuda.empty_cache()
        figures["trials"].append(
            {
                "seconds_to_begin": round(first, 1),
                "steps_per_second": round(rate, 1),
                "graphs": counters["stats"]["unique_graphs"],
                "leftover_mib": round(leftover_memory() / 2**20, 1),
                "pools_mib": round(bytes_of_graphs() / 2**20, 1),
            }
        )
    one, last = figures["trials"][0], figures["trials"][-1]
    return demand(
        figures,
        one_graph_for_all_numbers=one["graphs"] == last["graphs"] > 0,
        the_worker_is_used_again=last["leftover_mib"] < 256,
        pools_do_not_grow=last["pools_mib"] <= 1.5 * one["pools_mib"],
    )


def recomputing(setting: Setting) -> Figures:
    """Train with and without recomputed activations: the same losses, less memory, more time."""
    figures: Figures = {}
    losses = []
    for again in (False, True):
        big = {"model__width": setting.size(384, 32), "model__depth": setting.size(12, 2)}
        values = {"trainer__batch_size": setting.size(512, 8), "trainer__precision": "bf16", **big}
        made = trainer(training(setting, "dit", model__checkpoint_activations=again, **values))
        made.train(2)
        if setting.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        rows = made.train(setting.size(10, 2))
        losses.append(rows[-1][1]["train/squared_error"])
        name = "recomputed" if again else "kept"
        figures[f"{name} steps_per_second"] = round(rows[-1][1]["train/steps_per_second"], 1)
        if setting.on_gpu:
            figures[f"{name} peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        del made
    figures["losses_apart"] = float(f"{abs(losses[0] - losses[1]) / losses[0]:.1e}")
    less = not setting.on_gpu or figures["recomputed peak_mib"] < 0.7 * figures["kept peak_mib"]
    return demand(figures, losses_are_equal=figures["losses_apart"] < 1e-3, memory_is_saved=less)
