"""What the GPU is doing, as metrics of a logged row; nothing, at no cost, on a CPU."""

from __future__ import annotations

import contextlib

import torch


def device_metrics(device: torch.device) -> dict[str, float]:
    """Return the use of a GPU, under the names by which MLflow's pages show system metrics; {} on a CPU.

    `system/gpu_0_memory_usage_megabytes` and `..._percentage` count the whole device, all of its processes; the share
    of the time in which it computed, `system/gpu_0_utilization_percentage`, needs the package nvidia-ml-py.

    Args:
        device: of the training. The number in the names is the one that this process knows it by.
    """
    if device.type != "cuda":
        return {}
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    metrics = {
        f"system/gpu_{index}_memory_usage_megabytes": (total - free) / 1e6,
        f"system/gpu_{index}_memory_usage_percentage": 100 * (total - free) / total,
    }
    with contextlib.suppress(ModuleNotFoundError):
        metrics[f"system/gpu_{index}_utilization_percentage"] = float(torch.cuda.utilization(index))
    return metrics
