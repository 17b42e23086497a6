"""The GPUs that a process was granted: it sees those and no others, and it does not train without them.

Ray shows a process the GPUs that it was granted, and all of them where it was granted none: `trainer.device: auto`
would then take the first, beside whoever was granted that one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from meanflow_core.errors import ConfigError, Problem

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def hide_gpus() -> None:
    """Hide every GPU from this process, which was granted none. It must come before a library looks for GPUs."""
    os.environ.update(dict.fromkeys(VISIBLE, ""))


@contextmanager
def granted(gpus: float) -> Iterator[None]:
    """Hide every GPU for the block where none is granted; the variables are put back afterwards."""
    before = {name: os.environ.get(name) for name in VISIBLE}
    if not gpus:
        hide_gpus()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def demand_granted(gpus: float, config: Mapping[str, Any]) -> None:
    """Refuse to train on the CPU what was granted a GPU. Asks torch, and only where the trainer has imported it.

    Args:
        gpus: granted to this process.
        config: of the trial; a `trainer.device` that says `cpu` wants no GPU.

    Raises:
        ConfigError: this torch cannot use a GPU on any machine.
        RuntimeError: it can, and finds none here: a fault of the machine.
    """
    torch = sys.modules.get("torch")
    device = str((config.get("trainer") or {}).get("device", "auto"))
    if not gpus or torch is None or device.startswith("cpu") or torch.cuda.is_available():
        return
    if not (torch.version.cuda or torch.version.hip):
        rule = (
            f"grants a GPU, and torch {torch.__version__} is built without CUDA: install a CUDA build where trials "
            "run, or say `resources.gpu: 0` (or `trainer.device: cpu`)"
        )
        raise ConfigError([Problem(key="resources.gpu", value=gpus, rule=rule)])
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    raise RuntimeError(
        f"no CUDA GPUs are available to this worker, which was granted {gpus:g} (CUDA_VISIBLE_DEVICES is {shown!r}): "
        "does `nvidia-smi` answer on this node?"
    )
