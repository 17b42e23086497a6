"""What an own program of a sweep uses: `report`, its parameters, and its folder for checkpoints.

It imports nothing but the standard library, and needs none of it: a program in any language appends one JSON object a
line to the file that `$MEANSWEEP_REPORTS` names, e.g. `{"step": 100, "loss": 0.25}`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

REPORTS = "MEANSWEEP_REPORTS"
"""Names the file to which reports are appended."""
CHECKPOINTS = "MEANSWEEP_CHECKPOINTS"
"""Names the folder for checkpoints: a trial that goes on finds what it wrote there."""
PARAMETERS = "MEANSWEEP_PARAMETERS"
"""Names the JSON file with the trial's parameters, nested."""
FOLDER = "MEANSWEEP_FOLDER"
"""Names the trial's folder, with its log."""
SEED = "MEANSWEEP_SEED"
TRIAL = "MEANSWEEP_TRIAL"
SWEEP = "MEANSWEEP_SWEEP"


def report(step: int, **metrics: float) -> None:
    """Tell the sweep what has been reached at a step; outside of a sweep, print it.

    Each step counts once: what a program that was started again repeats is passed over. A step without the sweep's
    metric is shown beside the curve and judged by no rule.

    Args:
        step: what the program counts by (optimiser steps, epochs), from 1 on.
        metrics: numbers by name; a tensor of one element is one. Names with a slash: `report(3, **{"eval/fid": 7.2})`.

    Raises:
        TypeError: a metric is no number, or the step no whole number.
    """
    if isinstance(step, bool) or int(step) != step or int(step) < 0:
        raise TypeError(f"report: step must be a whole number from 0 on; it is {step!r}")
    line = json.dumps({"step": int(step), **{name: _number(name, value) for name, value in metrics.items()}})
    file = os.environ.get(REPORTS)
    if file is None:
        print(line, flush=True)
        return
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())  # at once: a process killed here leaves a line whole or not at all
    finally:
        os.close(descriptor)


def checkpoint_folder() -> Path:
    """Return the folder for checkpoints, which outlives the process; outside of a sweep, `checkpoints` here."""
    folder = Path(os.environ.get(CHECKPOINTS, "checkpoints"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def parameters() -> dict[str, Any]:
    """Return the trial's parameters, nested as in the sweep file; outside of a sweep, none."""
    file = os.environ.get(PARAMETERS)
    return {} if file is None else dict(json.loads(Path(file).read_text(encoding="utf-8")))


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"report: {name!r} must be a number; it is {value!r}") from error
