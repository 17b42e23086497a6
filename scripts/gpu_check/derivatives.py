"""du/dt on this device against the same network in float64."""

from __future__ import annotations

import torch

from meanflow_core.derivative import predict
from meanflow_core.training.precision import arithmetic
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import CLASSES, networks, random_net, relative

EXACT, DIFFERENCES, LOW = 2e-5, 2e-2, 5e-2
"""Largest relative errors: of the exact ways in float32, of finite differences in float32, of bfloat16."""


def derivatives(setting: Setting) -> Figures:
    """Compare three ways on three networks in `trainer.precision` float32, and `dual` in bfloat16.

    The reference is the central difference of the float64 network with Richardson's extrapolation: nothing of the
    package's derivatives is in it.
    """
    errors: dict[str, float] = {}
    for name, (model, shape) in networks(setting).items():
        net = random_net(model, shape, setting).eval()
        inputs = _inputs(shape, setting)
        reference = _reference(net.double(), *(x.double() if x.is_floating_point() else x for x in inputs))
        net.float()
        with arithmetic("float32"):
            for way in ("dual", "jvp", "finite_difference"):
                errors[f"{name} {way} float32"] = _error(net, inputs, way, reference)
        with arithmetic("bf16"), torch.autocast(setting.device, torch.bfloat16, cache_enabled=False):
            errors[f"{name} dual bf16"] = _error(net, inputs, "dual", reference)
    allowed = {key: LOW if "bf16" in key else DIFFERENCES if "finite" in key else EXACT for key in errors}
    bad = [key for key, error in errors.items() if not error <= allowed[key]]
    figures = {"relative_error": {key: float(f"{error:.2e}") for key, error in errors.items()}, "too_large": bad}
    return demand(figures, every_error_is_small=not bad)


def _inputs(shape: tuple[int, ...], setting: Setting, n: int = 32, rows: int = 8) -> tuple[torch.Tensor, ...]:
    """Return z, r, t, labels and direction; the first rows have r < t."""
    generator = torch.Generator().manual_seed(5)
    z, direction = torch.randn(n, *shape, generator=generator), torch.randn(rows, *shape, generator=generator)
    t = 0.2 + 0.7 * torch.rand(n, generator=generator)
    r = torch.where(torch.arange(n) < rows, t * torch.rand(n, generator=generator), t)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return tuple(x.to(setting.device) for x in (z, r, t, labels, direction))


def _error(net: torch.nn.Module, inputs: tuple[torch.Tensor, ...], way: str, reference: torch.Tensor) -> float:
    z, r, t, labels, direction = inputs
    _, du_dt = predict(net, z, r, t, labels, direction=direction, method=way)
    return relative(du_dt, reference)


@torch.no_grad()
def _reference(
    net: torch.nn.Module, z: torch.Tensor, r: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    m = len(v)

    def slope(h: float) -> torch.Tensor:
        ends = [net(z[:m] + s * h * v, r[:m], t[:m] + s * h, labels[:m]) for s in (1, -1)]
        change: torch.Tensor = ends[0] - ends[1]
        return change / (2 * h)

    return (4 * slope(5e-5) - slope(1e-4)) / 3
