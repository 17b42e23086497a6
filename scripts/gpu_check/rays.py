"""Ray: who is granted half a GPU sees one, who is granted none sees none, and two halves do not meet."""

from __future__ import annotations

from typing import Any

from scripts.gpu_check.check import Figures, NotRun, Setting, demand
from scripts.gpu_check.nets import trainer, training


def shares(setting: Setting) -> Figures:
    """Train in two actors of half a GPU at a time, and ask an actor without one what it sees."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise NotRun("ray is not installed") from error
    ray.init(
        num_cpus=4, num_gpus=None if setting.on_gpu else 1, include_dashboard=False, log_to_driver=False,
        _node_ip_address="127.0.0.1", object_store_memory=10**8,
    )  # fmt: skip
    half = ray.remote(num_cpus=1, num_gpus=0.5)(_Half)
    actors = [half.remote() for _ in range(2)]
    rows: list[dict[str, Any]] = ray.get([actor.train.remote(setting) for actor in actors])
    seen = ray.get(ray.remote(num_cpus=1)(_seen).remote())
    free = ray.available_resources().get("GPU", 0.0)
    figures: Figures = {"halves": rows, "seen_without_grant": seen, "gpus_free_while_both_run": free}
    apart = rows[0]["began"] < rows[1]["ended"] and rows[1]["began"] < rows[0]["ended"]
    alike = abs(rows[0]["loss"] - rows[1]["loss"]) / rows[0]["loss"]
    rules = {"who_was_granted_none_sees_none": seen["gpus"] == 0}
    return demand(
        figures, **rules, both_ran_at_once=apart, neither_disturbs_the_other=alike < 1e-3, the_gpu_is_taken=free == 0
    )


class _Half:
    def train(self, setting: Setting) -> dict[str, Any]:
        """Train, and say which device was seen and when."""
        import os
        import time

        began = time.time()
        made = trainer(training(setting, "dit"))
        rows = made.train(setting.size(200, 5))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        end = {"began": began, "ended": time.time(), "pid": os.getpid()}
        return {"visible": visible, "device": str(made.device), "loss": rows[-1][1]["train/loss"], **end}


def _seen() -> dict[str, Any]:
    import os

    from orchestrator.worker.grant import hide_gpus

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    hide_gpus()  # as a worker without a grant does first of all
    import torch

    return {"shown_by_ray": shown, "gpus": torch.cuda.device_count()}
