"""What "float32" means on this device: the error of products and convolutions as torch is set up by default."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from scripts.gpu_check.check import Figures, Setting, demand
from scripts.gpu_check.nets import relative


def precision(setting: Setting) -> Figures:
    """Compare a product, a convolution and attention in float32 with float64."""
    torch.manual_seed(2)
    device = setting.device
    a, b = torch.randn(512, 2048, device=device), torch.randn(2048, 512, device=device)
    x, w = torch.randn(16, 128, 32, 32, device=device), torch.randn(128, 128, 3, 3, device=device) / 34
    q, k, v = torch.randn(3, 4, 6, 256, 64, device=device)
    scores = torch.softmax(q.double() @ k.double().mT / 8, -1) @ v.double()
    errors = {
        "matmul": relative(a @ b, a.double() @ b.double()),
        "conv2d": relative(F.conv2d(x, w, padding=1), F.conv2d(x.double(), w.double(), padding=1)),
        "attention": relative(F.scaled_dot_product_attention(q, k, v), scores),
    }
    figures: Figures = {"float32_error": {key: float(f"{error:.1e}") for key, error in errors.items()}}
    return demand(figures, float32_means_float32_on_every_kernel=max(errors.values()) < 1e-5)
