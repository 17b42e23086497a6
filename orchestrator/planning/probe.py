"""What a sweep costs, measured: a few steps of its cheapest and of its dearest configuration."""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.config import CustomSection, load_config
from meanflow_core.errors import ConfigError
from orchestrator.spec import flat

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

DRAWS = 64
"""Configurations drawn to find the cheapest and the dearest."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one configuration costs on this machine."""

    work: float
    """Its `work_of`: what costs are compared by."""
    seconds_per_step: float
    evaluation_seconds: float
    startup_seconds: float
    """To read the data and build the network, once a trial."""
    peak_memory: int
    """Bytes: of the GPU where there is one, else of the whole process."""
    checkpoint_bytes: int
    device: str = "cpu"


def available_here() -> dict[str, float]:
    """Return this machine's `{cpu, gpu}`, without starting Ray or importing torch."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = _gpus_of_driver()
    if visible is not None:
        found = min(found, len(list(takewhile(_names_a_gpu, visible.split(",")))))
    return {"cpu": float(cpus), "gpu": float(found)}


def _names_a_gpu(name: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES shows one; it hides those behind it where not ("-1", "NoDevFiles")."""
    return name.strip().isdigit() or name.strip().startswith(("GPU-", "MIG-"))


def _gpus_of_driver() -> int:
    """Return how many GPUs there are. A sandbox may lack NVIDIA's folder in /proc, or its files in /dev."""
    devices = Path("/proc/driver/nvidia/gpus")
    listed = len(list(devices.iterdir())) if devices.is_dir() else 0
    return listed or len(list(Path("/dev").glob("nvidia[0-9]*")))


def work_of(config: Mapping[str, Any]) -> float:
    """Return a number that grows with the cost of a step: its rows times the operations for one of them.

    A configuration whose network is not known (a trainer of the user's own) counts its batch size alone.
    """
    rows = float(config["trainer"].get("batch_size", 1))
    flops = _forward_flops(*(json.dumps(config.get(section), sort_keys=True) for section in ("model", "data")))
    return rows * flops * step_cost(config)


def step_cost(config: Mapping[str, Any]) -> float:
    """Return the cost of a step by its objective, in flow-matching steps; 1 for what is no MeanFlow configuration."""
    from meanflow_core.objectives import relative_cost

    try:
        read = load_config({key: config[key] for key in ("objective", "evaluation") if config.get(key)})
    except ConfigError:
        return 1.0
    low = (config.get("trainer") or {}).get("precision") == "bf16"
    return relative_cost(read.objective, low_precision=low)


@cache
def _forward_flops(model: str, data: str) -> float:
    """Return the operations of one pass of one row (JSON of both sections); 1 for what is no MeanFlow configuration."""
    if model == "null":
        return 1.0
    from meanflow_core.data import build_dataset, row_shape  # torch takes a second
    from meanflow_core.nets import forward_flops

    own = False
    sections = {name: json.loads(text) or {} for name, text in (("model", model), ("data", data))}
    try:
        config = load_config(sections)
        own = isinstance(config.model, CustomSection) or isinstance(config.data, CustomSection)
        if not own:
            return float(forward_flops(config.model, row_shape(config.data)))
        rows = build_dataset(config.data)
        condition = getattr(rows, "condition", None)
        return float(forward_flops(config.model, rows.shape, rows.num_classes, condition=condition))
    except ConfigError:  # what is wrong with it, if it is for the MeanFlow trainer, is said before a probe
        return 1.0
    except Exception:
        if not own:
            raise
        return 1.0  # a network of the user's own may need numbers, where shapes are counted alone


def drawn_configs(spec: SweepSpec, count: int) -> list[dict[str, Any]]:
    """Return configurations drawn at random (seeded), without those that are forbidden or break a rule.

    Raises:
        ConfigError: of the last one drawn, if not one is left.
    """
    chance = random.Random(spec.seed)
    found: list[dict[str, Any]] = []
    failure: ConfigError | None = None
    for _ in range(count):
        try:
            found.append(spec.config_for(spec.space.draw(chance.random)))
        except ConfigError as error:
            failure = error
    if failure is not None and not found:
        raise failure
    return found


def choose_probe_configs(spec: SweepSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the cheapest and the dearest of the sweep's configurations (of `DRAWS` drawn ones), by `work_of`."""
    configs = sorted(drawn_configs(spec, DRAWS), key=work_of)
    return configs[0], configs[-1]


def measure(
    config: Mapping[str, Any],
    trainer: str,
    *,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Train a few steps of a configuration in this process, and evaluate once.

    Args:
        config: complete training configuration.
        trainer: the class, as package.module:Class.
        seconds: time to spend on steps, after a warm-up.
        clock: seconds that only go forward.
    """
    module, _, name = trainer.partition(":")
    start = clock()
    running = getattr(importlib.import_module(module), name)(dict(config))
    startup = clock() - start
    done = warm_up = min(2, config["trainer"]["steps"])
    running.train(warm_up)
    steps, spent, batch = 0, 0.0, 1
    while spent < seconds and done + batch <= config["trainer"]["steps"]:
        start = clock()
        running.train(batch)
        spent += clock() - start
        steps, done, batch = steps + batch, done + batch, batch * 2
    if not steps:  # a trial of so few steps that the warm-up was all of it
        steps, spent = warm_up, startup
    start = clock()
    running.evaluate()
    evaluation = clock() - start
    device, memory = _peak_memory()
    return Measurement(
        work=work_of(config),
        seconds_per_step=spent / steps,
        evaluation_seconds=evaluation,
        startup_seconds=startup,
        peak_memory=memory,
        checkpoint_bytes=_bytes_of(running.state_dict()),
        device=device,
    )


def _peak_memory() -> tuple[str, int]:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        try:
            name = str(torch.cuda.get_device_name())
        except (RuntimeError, AssertionError):  # of a device that does not tell its name the figures are as good
            name = "cuda"
        return name, int(torch.cuda.max_memory_allocated())
    import resource  # POSIX only, and needed here alone

    scale = 1 if sys.platform == "darwin" else 1024
    return "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _bytes_of(state: Mapping[str, Any]) -> int:
    """Bytes of a state's tensors and arrays; other values are small."""
    return sum(int(getattr(value, "nbytes", 8)) for value in flat(state).values())
