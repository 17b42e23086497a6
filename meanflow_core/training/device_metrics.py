"""What the GPU is doing, as metrics of a logged row; nothing, at no cost, on a CPU."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

import torch

_log = logging.getLogger(__name__)


def device_metrics(device: torch.device) -> dict[str, float]:
    """Return the use of a GPU, under the names by which MLflow's pages show system metrics; {} on a CPU.

    `system/gpu_0_memory_usage_megabytes` and `..._percentage` count the whole device, all of its processes; the share
    of the time in which it computed, `system/gpu_0_utilization_percentage`, needs the package nvidia-ml-py.

    No figure is worth a training: one that the driver does not tell is left out.

    Args:
        device: of the training. The number in the names is the one that this process knows it by.
    """
    if device.type != "cuda":
        return {}
    index = torch.cuda.current_device() if device.index is None else device.index
    return {f"system/gpu_{index}_{name}": value for name, value in _told(index)}


def _told(index: int) -> Iterator[tuple[str, float]]:
    """Yield what the device and its driver tell; what one of them does not is left out, and said once."""
    try:
        free, total = torch.cuda.mem_get_info(index)
        yield "memory_usage_megabytes", (total - free) / 1e6
        yield "memory_usage_percentage", 100 * (total - free) / total
    except Exception as error:
        _say_once("memory", error)
    try:  # through NVIDIA's management library, which knows nothing of many a slice, sandbox and virtual GPU
        yield "utilization_percentage", float(torch.cuda.utilization(index))
    except ModuleNotFoundError:
        pass  # the package is optional
    except Exception as error:
        _say_once("utilization", error)


@functools.cache
def _say_of(what: str, kind: str) -> None:
    _log.warning("the GPU's %s is not known here (%s): it is left out of the logged rows", what, kind)


def _say_once(what: str, error: Exception) -> None:
    _say_of(what, f"{type(error).__name__}: {error}".splitlines()[0])
