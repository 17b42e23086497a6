"""Deterministic trainers of a few lines, without torch, and a sweep over them."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from orchestrator.spec.sweep import SweepSpec


class Curve:
    """Its metric falls from 3 to `height(x, y)` like exp(-step / 30), so that ranks change along the way."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.step = 0
        self.sum = 0.0

    def train(self, steps: int) -> dict[str, float]:
        for _ in range(steps):
            self.step += 1
            self.sum += math.sin(self.step * (1 + self.config["seed"]))
        return {"train/loss": self.sum}

    def evaluate(self) -> dict[str, float]:
        x, y = float(self.config["x"]), float(self.config.get("y", 0.5))
        height = (x - 0.3) ** 2 + (y - 0.7) ** 2
        fading = math.exp(-self.step / 30 * (0.5 + x))
        return {"loss": height + (3 - height) * fading + 1e-3 * self.sum / self.step, "size": 1.0 - x + y / 10}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.sum = int(state["step"]), float(state["sum"])


class Misleading(Curve):
    """Before step 30 its metric is mostly best for large x, at its end for small x."""

    def evaluate(self) -> dict[str, float]:
        x = float(self.config["x"])
        return {"loss": 20 - 5 * x + 7919 * x % 1 if self.step < 30 else 1 + x, "size": 1.0}


class Slow(Curve):
    """Takes `config["nap"]` seconds for each call of `train`, and notes it in the file `$TOY_TRACE` if set."""

    def train(self, steps: int) -> dict[str, float]:
        if "TOY_TRACE" in os.environ:
            with open(os.environ["TOY_TRACE"], "a") as file:
                file.write(f"{self.config['x']} {self.step}\n")
        time.sleep(float(self.config.get("nap", 0.05)))
        return super().train(steps)


class Diverging(Curve):
    """Its metric is NaN from step 31 on where x > 0.5."""

    def evaluate(self) -> dict[str, float]:
        found = super().evaluate()
        return found | {"loss": math.nan} if self.step > 30 and self.config["x"] > 0.5 else found


class OutOfMemory(Curve):
    """Runs out of memory where x > 0.5."""

    def train(self, steps: int) -> dict[str, float]:
        if self.config["x"] > 0.5:
            raise MemoryError("tried to allocate 80 GiB")
        return super().train(steps)


class Buggy(Curve):
    """Has a bug after the first report where x is at least `config["bug_from"]`."""

    def train(self, steps: int) -> dict[str, float]:
        if self.step and self.config["x"] >= self.config.get("bug_from", 0.0):
            raise ValueError(f"this cannot work: x = {self.config['x']}")
        return super().train(steps)


class Flaky(Curve):
    """Its disk fails in the second stretch of each trial, as often as `config["faults"]` says."""

    def train(self, steps: int) -> dict[str, float]:
        if self.step:
            marks = Path(self.config["marks"])
            marks.mkdir(parents=True, exist_ok=True)
            done = len(list(marks.glob(f"{self.config['x']}-*")))
            if done < self.config["faults"]:
                (marks / f"{self.config['x']}-{done}").touch()
                raise OSError(5, "Input/output error")
        return super().train(steps)


def sweep(name: str = "toy", **changes: Any) -> dict[str, Any]:
    """Return the content of a sweep file over `Curve`; a change of None leaves a key out."""
    content: dict[str, Any] = {
        "name": name,
        "trainer": "tests.orchestrator.toy:Curve",
        "base": {"trainer": {"steps": 90, "eval_every": 30}, "x": 0.5, "y": 0.5, "seed": 0},
        "method": "random",
        "metric": {"name": "loss", "goal": "minimize"},
        "run_cap": 6,
        "parameters": {"x": {"min": 0.0, "max": 1.0}, "y": {"values": [0.1, 0.4, 0.7]}},
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


def grid(name: str = "toy", x: tuple[float, ...] = (0.1, 0.4, 0.6, 0.9), **changes: Any) -> dict[str, Any]:
    """Return a sweep over a few values of x."""
    return sweep(name, **{"method": "grid", "run_cap": None, "parameters": {"x": {"values": list(x)}}, **changes})


def trained(kind: str, **settings: Any) -> dict[str, Any]:
    """Return the changes that put another trainer of this module into a sweep."""
    base = {"trainer": {"steps": 90, "eval_every": 30}, "x": 0.5, "y": 0.5, "seed": 0, **settings}
    return {"trainer": f"tests.orchestrator.toy:{kind}", "base": base}


def search(content: dict[str, Any]) -> Any:
    """Return the search of a sweep with this content."""
    found = spec(content)
    return found.method(found)


def spec(content: dict[str, Any]) -> SweepSpec:
    """Return the sweep that a file with this content would give."""
    rest = {key: value for key, value in content.items() if key != "base"}
    return SweepSpec.from_source({"file": None, "sweep": rest, "base": content["base"]})
