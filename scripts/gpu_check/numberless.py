"""What can be known of a step without a GPU: on torch's meta device, whose tensors have a shape and no numbers.

An operation that mixes devices fails there as it would on a GPU, and one that needs a number on the host (and would
wait for it) fails too. The optimiser's fused kernel is left out: it has no meta form.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from meanflow_core.config import load_config
from meanflow_core.derivative import methods
from meanflow_core.derivative.check import Findings
from meanflow_core.training import Trainer
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import MODELS

KINDS: dict[str, dict[str, Any]] = {
    "flow matching": {"objective.time.ratio": 0.0},
    "dual": {},
    "guided": {"objective.guidance.omega": 1.0, "objective.guidance.kappa": 0.5},
}
DIT = {"name": "dit", "width": 256, "depth": 6, "heads": 4, "patch": 2}


def operations(model: dict[str, Any], batch: int = 256, **values: Any) -> int:
    """Return the floating-point operations of a whole training step, forward, backward, metrics and averages.

    Raises:
        RuntimeError: the step mixes devices, or needs a number of a tensor.
    """
    config = {
        "model": model,
        "trainer.batch_size": batch,
        "trainer.device": "meta",
        "optimizer.clip_norm": 1.0,
        **values,
    }
    chosen = mock.patch.object(methods, "_chosen", return_value="row_dual")  # else chosen by numbers, before training
    findings = Findings(faults={}, draws=False, mixing=False, orderless=True, separable=True)
    sound = mock.patch.object(methods, "_findings", return_value=findings)
    exact = mock.patch.object(torch, "is_autocast_enabled", return_value=False)  # which does not know the meta device
    with chosen, sound, exact:
        made = Trainer(load_config(config))
        made._optimizer.inner.step = lambda: None  # type: ignore[method-assign, assignment]
        with FlopCounterMode(display=False) as counter:
            made._train_step()
    return int(counter.get_total_flops())


def numberless(setting: Setting) -> Figures:
    """Take steps of every kind of network on the meta device, and count the operations of a DiT's."""
    for model in MODELS.values():
        for kind in KINDS.values():
            operations(model, 64, **kind)
    counts = {name: operations(DIT, **kind) for name, kind in KINDS.items()}
    ratios = {name: round(count / counts["flow matching"], 3) for name, count in counts.items()}
    figures: Figures = {"steps": len(MODELS) * len(KINDS), "network": "DiT 6 x 256", "operations": ratios}
    return demand(figures, dual_is_cheap=1.05 < ratios["dual"] < 1.12, guided_is_cheap=1.4 < ratios["guided"] < 1.5)
