"""What a MeanFlow training step costs, in units of a flow-matching step of the same network.

    python benchmarks/step_cost.py                       # one CPU thread: three small networks
    python benchmarks/step_cost.py --objectives          # every objective instead of every way to du/dt
    python benchmarks/step_cost.py --networks b4 b2 --device cuda --dtype bf16 --compile

All variants of a network take turns, step by step, in one process; a ratio is taken within each turn, and the table
gives its median and quartiles. On CPU the clock is the process's own CPU time, since wall time on a shared machine
measures the neighbours. Peak memory is that of one step, all tensors included.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow_core.config import (
    PRESETS,
    DiTConfig,
    GuidanceConfig,
    MLPConfig,
    ModelConfig,
    ObjectiveConfig,
    TimeConfig,
)
from meanflow_core.flow.guidance import evaluating
from meanflow_core.flow.path import interpolate, per_row
from meanflow_core.flow.times import sample_dropped, sample_times, spanning_rows
from meanflow_core.nets.build import build_net
from meanflow_core.nets.embedding import randomise_
from meanflow_core.objectives.loss import meanflow_loss


@dataclass(frozen=True)
class Case:
    """A network with the data and batch it is measured on."""

    model: ModelConfig
    shape: tuple[int, ...]
    batch: int
    classes: int = 10


CASES = {
    "digits": Case(MLPConfig(width=192, depth=3), (1, 8, 8), 128),  # as sweeps/configs/digits_mlp.yaml
    "dit64": Case(DiTConfig(width=64, depth=4, heads=4, patch=2), (1, 8, 8), 64),
    "dit256": Case(DiTConfig(width=256, depth=6, heads=4, patch=2), (4, 32, 32), 16),
    "b4": Case(DiTConfig(width=768, depth=12, heads=12, patch=4), (4, 32, 32), 256, 1000),
    "b2": Case(DiTConfig(width=768, depth=12, heads=12, patch=2), (4, 32, 32), 256, 1000),
}
GUIDANCE = {"plain": GuidanceConfig(), "guided": GuidanceConfig(omega=1.0, kappa=0.5)}
RATIO, DROPPED = 0.25, 0.1
BASE = "flow matching"
EAGER_ONLY = {"jvp", "finite_difference"}
"""What torch.compile cannot trace: their replay of dropout masks."""


@dataclass
class Variant:
    """One way of taking a step, ready to run, and what was measured of it."""

    name: str
    guidance: str
    compiled: bool
    step: Callable[[], None]
    seconds: list[float]
    peak: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.name}{', compiled' if self.compiled else ''}"


def whole_batch_loss(net: nn.Module, x: Tensor, noise: Tensor, r: Tensor, t: Tensor, **given: Any) -> Tensor:
    """The step of most public code: torch.func.jvp over the whole batch, both guidance passes over the whole batch."""
    labels, dropped, null, guidance = given["labels"], given["dropped"], given["null_label"], given["guidance"]
    point = interpolate(x, noise, t)
    velocity = point.velocity
    if guidance.active:
        with torch.no_grad(), evaluating(net):
            at_label, at_null = net(point.z, t, t, labels), net(point.z, t, t, torch.full_like(labels, null))
        omega, kappa = guidance.effective_omega, guidance.kappa
        mixed = omega * velocity + kappa * at_label + (1 - omega - kappa) * at_null
        velocity = torch.where(per_row(dropped, x), velocity, mixed)
    seen = torch.where(dropped, null, labels)
    u = net(point.z, r, t, seen)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        tangents = (velocity, torch.zeros_like(r), torch.ones_like(t))
        _, du_dt = torch.func.jvp(lambda z, r, t: net(z, r, t, seen), (point.z, r, t), tangents)
    error = (u - (velocity - per_row(t - r, x) * du_dt)).float().square().flatten(1).sum(1)
    return (error / (error.detach() + 1e-3)).mean()


def make_variants(case: Case, options: argparse.Namespace) -> list[Variant]:
    """Build every variant on weights, optimiser and batch of its own making, all equal."""
    variants = []
    modes = [False, True] if options.compile else [False]
    for compiled in modes:
        variants.append(_variant(case, options, BASE, "plain", compiled))
        for guidance in options.guidance:
            for name in options.variants:
                if compiled and name in EAGER_ONLY:
                    continue
                variants.append(_variant(case, options, name, guidance, compiled))
    return variants


def _variant(case: Case, options: argparse.Namespace, name: str, guidance: str, compiled: bool) -> Variant:
    device = torch.device(options.device)
    net = randomise_(build_net(case.model, case.shape, case.classes)).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5)
    generator = torch.Generator().manual_seed(0)
    objective = ObjectiveConfig(
        name=name if name in PRESETS else "meanflow",
        time=TimeConfig(ratio=0.0 if name == BASE else options.ratio),
        guidance=GUIDANCE[guidance],
        derivative=name if name in ("dual", "jvp", "finite_difference") else "dual",
    )
    # Of a split that moves, its middle: at the limits of alphaflow a step costs meanflow's, or flow matching's.
    split = None if objective.split.law == "constant" else torch.full((case.batch,), 0.5, device=device)
    n = case.batch
    x, noise = (torch.randn(n, *case.shape, generator=generator).to(device) for _ in range(2))
    r, t = (times.to(device) for times in sample_times(n, objective.time, generator=generator))
    labels = torch.randint(case.classes, (n,), generator=generator).to(device)
    dropped = sample_dropped(n, DROPPED, generator=generator).to(device)
    given = {"labels": labels, "dropped": dropped, "null_label": case.classes}

    def loss() -> Tensor:
        if name == "jvp of the batch":
            return whole_batch_loss(net, x, noise, r, t, guidance=objective.guidance, **given)
        rows, drops = spanning_rows(n, objective.time.ratio), round(n * DROPPED)
        shapes = {"rows": rows, "drops": drops, "split": split}
        return meanflow_loss(net, x, noise, r, t, objective=objective, **shapes, **given).loss

    def lowered() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == "bf16")

    if compiled:  # how du/dt is had is decided by looking at numbers, which a graph cannot
        with lowered(), torch.no_grad():
            loss()
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    run = torch.compile(loss, fullgraph=True, dynamic=False, mode=mode) if compiled else loss

    def step() -> None:
        with lowered():
            value = run()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()  # as the trainer does: no gradient outlives its step

    return Variant(name, guidance, compiled, step, [])


def peak_memory(variant: Variant, device: torch.device) -> float:
    """Peak of the memory held by tensors during a step, above what all variants hold between steps, in MB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        variant.step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        variant.step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held, peak = 0, 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def measure(variants: list[Variant], options: argparse.Namespace) -> None:
    """Warm every variant up, then let them take turns, each turn in another order."""
    device = torch.device(options.device)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    for variant in variants:
        for _ in range(3):
            variant.step()
        variant.peak = peak_memory(variant, device)
    for turn in range(options.turns):
        shift = turn % len(variants)
        for variant in variants[shift:] + variants[:shift]:
            variant.step()  # brings its weights and code back into the caches
            start = clock()
            variant.step()
            variant.seconds.append(clock() - start)


def table(name: str, variants: list[Variant], static: float) -> list[dict[str, Any]]:
    """Print the ratios of one network and return them."""
    rows = []
    bases = {v.compiled: v for v in variants if v.name == BASE}
    print(f"\n{name}: a flow-matching step takes {1e3 * statistics.median(bases[False].seconds):.1f} ms")
    print(f"{'guidance':<10}{'objective, or du/dt by':<34}{'ratio':>7}{'quartiles':>16}{'peak MB':>10}{'of base':>9}")
    for v in variants:
        base = bases[v.compiled]
        ratios = [a / b for a, b in zip(v.seconds, base.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        memory = (v.peak + static) / (base.peak + static)
        print(f"{v.guidance:<10}{v.label:<34}{middle:7.3f}{low:9.3f}-{high:.3f}{v.peak + static:10.0f}{memory:9.3f}")
        rows.append(
            {
                "network": name,
                "guidance": v.guidance,
                "variant": v.name,
                "compiled": v.compiled,
                "ratio": middle,
                "quartiles": [low, high],
                "ms": 1e3 * statistics.median(v.seconds),
                "peak_mb": v.peak + static,
                "peak_ratio": memory,
            }
        )
    return rows


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    on_gpu = torch.device(options.device).type == "cuda"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.strip(),
        "device": torch.cuda.get_device_name() if on_gpu else (platform.processor() or platform.machine()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{key: value for key, value in vars(options).items() if key != "json"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=["digits", "dit64", "dit256"])
    parser.add_argument("--batch", type=int, help="rows of a batch, instead of the network's own")
    known = ["dual", "jvp", "jvp of the batch", "finite_difference"]
    parser.add_argument("--variants", nargs="+", choices=known, default=known)
    parser.add_argument("--objectives", nargs="*", choices=PRESETS, help="compare these objectives (none named: all)")
    parser.add_argument("--ratio", type=float, default=RATIO, help="share of rows with r != t")
    parser.add_argument("--guidance", nargs="+", choices=GUIDANCE, default=list(GUIDANCE))
    parser.add_argument("--compile", action="store_true", help="measure compiled steps too (CUDA graphs on a GPU)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast of the network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path, default=Path("step_cost.json"))
    options = parser.parse_args()
    if options.objectives is not None:
        options.variants = options.objectives or list(PRESETS)
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.networks:
        case = CASES[name] if options.batch is None else replace(CASES[name], batch=options.batch)
        torch.compiler.reset()
        variants = make_variants(case, options)
        measure(variants, options)
        parameters = sum(
            p.numel() * p.element_size() for p in build_net(case.model, case.shape, case.classes).parameters()
        )
        rows += table(f"{name}, batch {case.batch}", variants, 3 * parameters / 2**20)  # weights and Adam's two moments
        del variants
    options.json.write_text(json.dumps({"environment": environment(options), "rows": rows}, indent=1) + "\n")
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()
