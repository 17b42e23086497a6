"""Run the checks, one line of JSON each, and a summary: `python -m scripts.gpu_check`.

Exit code 0: every check that ran is ok. 1: one is not. Without a GPU the checks that need none are run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.gpu_check.attention import attention
from scripts.gpu_check.casts import casts
from scripts.gpu_check.check import Check, Setting, run_check
from scripts.gpu_check.cost import cost, launches, warm_up
from scripts.gpu_check.derivatives import derivatives
from scripts.gpu_check.graphs import graphs
from scripts.gpu_check.machine import machine
from scripts.gpu_check.memory import out_of_memory
from scripts.gpu_check.numberless import numberless
from scripts.gpu_check.precision import precision
from scripts.gpu_check.ranks import ranks
from scripts.gpu_check.ranks import shards as fsdp
from scripts.gpu_check.rays import shares
from scripts.gpu_check.reuse import recomputing, reuse
from scripts.gpu_check.saving import saving
from scripts.gpu_check.trainings import paired, resume
from scripts.gpu_check.waits import waits

SECONDS = 360.0
"""For all checks together."""
CHECKS = (
    Check(
        "numberless",
        "no device is mixed and no number asked for in a step; its arithmetic is 1.09, guided 1.47",
        numberless,
        120,
    ),
    Check("machine", "which device the figures are of", machine, 40),
    Check("waits", "a training step never waits for the device, whatever network, derivative and precision", waits, 90),
    Check("derivatives", "du/dt is right to rounding: three ways, three networks, against float64", derivatives, 90),
    Check("precision", "float32 means one thing on every kernel", precision, 30),
    Check("resume", "a training goes on from its checkpoint, and is judged, as if never interrupted", resume, 60),
    Check("paired", "equal seeds see equal data, noise and times on this device and on a CPU", paired, 60),
    Check("attention", "the tangent of attention is right and takes bounded memory", attention, 60),
    Check("memory", "running out of memory is called that, and the process trains on", out_of_memory, 40),
    Check("ranks", "two ranks train and evaluate as one process does", ranks, 90),
    Check("fsdp", "two ranks that hold half of a network each train as one process, whatever the derivative", fsdp, 60),
    Check("casts", "a bf16 step casts each weight once, with the bits of casting it at each use", casts, 30),
    Check("saving", "a checkpoint is written while the training goes on, and is that of its step", saving, 30),
    Check("shares", "trials take what Ray granted them, and two halves of a GPU do not meet", shares, 90),
    Check("graphs", "compiled steps on CUDA graphs are the eager ones, and their memory comes back", graphs, 120),
    Check("reuse", "compiled trials of one worker share a graph, and leave it fit for the next", reuse, 90),
    Check("recomputing", "recomputed activations train the same and take less memory", recomputing, 40),
    Check("launches", "what launching costs a small network, and what compiling saves", launches, 90),
    Check("cost", "a step costs what its arithmetic says, in units of flow matching", cost, 150),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[check.name for check in CHECKS], help="these checks alone")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU: tries the checks themselves")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all checks together")
    parser.add_argument("--json", type=Path, help="also write the lines to this file")
    options = parser.parse_args(arguments)
    chosen = [check for check in CHECKS if options.only is None or check.name in options.only]
    setting = Setting("cpu" if options.rehearse or not _gpu() else "cuda")
    if not setting.on_gpu and not options.rehearse:
        print("no GPU here: what needs none is checked, the rest stays unproven", file=sys.stderr)
    end = time.monotonic() + options.seconds
    warming = warm_up(setting) if setting.on_gpu and any(check.run is cost for check in chosen) else []
    lines = []
    for check in chosen:
        if check.run in (launches, cost):
            for process in warming:  # what is timed has the device to itself
                process.join(max(0.0, end - time.monotonic() - 60))
                process.kill()
        left = end - time.monotonic()
        if not (setting.on_gpu or options.rehearse or check.run is numberless):
            lines.append(_not_run(check, "needs a GPU"))
        elif left < 5:
            lines.append(_not_run(check, "out of time"))
        else:
            lines.append(run_check(check, setting, left))
        print(json.dumps(lines[-1]), flush=True)
        if options.json:
            options.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return _summary(lines)


def _gpu() -> bool:
    """Whether there is a GPU, asked in a process of its own: a fork of one that has used a GPU cannot use one."""
    program = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def _not_run(check: Check, why: str) -> dict[str, Any]:
    return {"check": check.name, "proves": check.proves, "ok": None, "error": f"not run: {why}"}


def _summary(lines: Sequence[dict[str, Any]]) -> int:
    words = {True: "ok", False: "FAILED", None: "not run"}
    for line in lines:
        print(f"{words[line['ok']]:<8}{line['check']:<12}{line.get('error', line['proves'])[:150]}", file=sys.stderr)
    bad = sum(line["ok"] is False for line in lines)
    print(f"{bad} of {len(lines)} checks failed", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
