"""What each `trainer.precision` means on this device: the error of products, convolutions and attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from meanflow_core.training.precision import arithmetic
from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import relative


def precision(setting: Setting) -> Figures:
    """Compare a product, a convolution and attention with float64, as torch is set up by default and by each name."""
    errors = {"torch's own": _errors(setting)}
    for name in ("float32", "tf32"):
        with arithmetic(name):
            errors[name] = _errors(setting)
    figures: Figures = {key: {k: float(f"{e:.1e}") for k, e in found.items()} for key, found in errors.items()}
    rules = {"float32_is_float32_on_every_kernel": max(errors["float32"].values()) < 2e-6}
    if setting.on_gpu and torch.cuda.get_device_capability()[0] >= 8:
        tf32 = [errors["tf32"][kernel] for kernel in ("matmul", "conv2d")]
        rules["tf32_is_tf32_on_products_and_convolutions"] = all(5e-5 < error < 2e-3 for error in tf32)
    return demand(figures, **rules)


def _errors(setting: Setting) -> dict[str, float]:
    torch.manual_seed(2)
    device = setting.device
    a, b = torch.randn(512, 2048, device=device), torch.randn(2048, 512, device=device)
    x, w = torch.randn(16, 128, 32, 32, device=device), torch.randn(128, 128, 3, 3, device=device) / 34
    q, k, v = torch.randn(3, 4, 6, 256, 64, device=device)
    scores = torch.softmax(q.double() @ k.double().mT / 8, -1) @ v.double()
    return {
        "matmul": relative(a @ b, a.double() @ b.double()),
        "conv2d": relative(F.conv2d(x, w, padding=1), F.conv2d(x.double(), w.double(), padding=1)),
        "attention": relative(F.scaled_dot_product_attention(q, k, v), scores),
    }
