"""A deterministic trainer of a few lines, without torch: the learning curve of a known function."""

from __future__ import annotations

import math
from typing import Any


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
        return {"loss": height + (3 - height) * fading + 1e-3 * self.sum / self.step}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.sum = int(state["step"]), float(state["sum"])


def sweep(name: str = "toy", **changes: Any) -> dict[str, Any]:
    """Return the content of a sweep file over `Curve`."""
    content: dict[str, Any] = {
        "name": name,
        "trainer": "tests.orchestrator.toy:Curve",
        "base": {"trainer": {"steps": 90, "eval_every": 30}, "x": 0.5, "y": 0.5, "seed": 0},
        "method": "random",
        "metric": {"name": "loss", "goal": "minimize"},
        "run_cap": 6,
        "parameters": {"x": {"min": 0.0, "max": 1.0}, "y": {"values": [0.1, 0.4, 0.7]}},
    }
    return {**content, **changes}
