"""Which machine the figures are of, and what it can do at best."""

from __future__ import annotations

import platform
import shutil
import time

import torch

from scripts.gpu_check.check import Figures, Setting


def machine(setting: Setting) -> Figures:
    """Return what the device is, and what is installed around it."""
    found: Figures = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiler": next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None),
        "cpu": torch.get_num_threads(),
    }
    if not setting.on_gpu:
        return found
    properties = torch.cuda.get_device_properties(0)
    found |= {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "matmul_bf16_tflops": round(_tflops(torch.bfloat16), 1),
        "matmul_fp32_tflops": round(_tflops(torch.float32), 1),
    }
    try:
        found["utilization_percent"] = torch.cuda.utilization(0)
    except Exception as error:
        found["utilization_percent"] = f"{type(error).__name__}: {error}"
    return found


def _tflops(dtype: torch.dtype, size: int = 8192, times: int = 10) -> float:
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    for _ in range(2):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        a @ b
    torch.cuda.synchronize()
    return 2e-12 * size**3 * times / (time.perf_counter() - began)
