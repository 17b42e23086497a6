"""A training step hands work to the device and never waits for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import trainer, training


@contextmanager
def waiting_is_an_error(setting: Setting) -> Iterator[None]:
    """Let every operation that waits for the GPU raise in the block."""
    if not setting.on_gpu:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(setting: Setting) -> Figures:
    """Take steps of every kind of network, derivative and precision with waiting made an error."""
    kinds = list(itertools.product(("mlp", "dit", "unet"), (False, True), ("float32", "bf16"), ("dual",), (1,)))
    kinds += [("dit", True, "float32", way, 1) for way in ("jvp", "finite_difference", "auto")]
    kinds += [("unet", True, "bf16", "jvp", 1), ("dit", True, "bf16", "dual", 4), ("mlp", True, "float32", "dual", 2)]
    waited, milliseconds = {}, {}
    for model, guided, precision, way, accumulation in kinds:
        name = " ".join([model, *(["guided"] if guided else []), precision, way, f"x{accumulation}"])
        options = {"trainer__precision": precision, "objective__derivative": way, "trainer__accumulation": accumulation}
        try:
            made = trainer(training(setting, model, guided=guided, **options))
            made.train(2)
            with waiting_is_an_error(setting):
                began = time.perf_counter()
                for _ in range(5):
                    made._train_step()
                seconds = time.perf_counter() - began
            milliseconds[name] = round(200 * seconds, 2)
        except Exception as error:  # the other kinds are tried all the same
            waited[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:200]
    return demand({"steps": len(kinds), "waited": waited, "host_ms": milliseconds}, no_step_waits=not waited)
