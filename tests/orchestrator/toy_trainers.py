"""Trainers of a few lines for tests: deterministic, without torch, with the faults a real one can have."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from meanflow_core.errors import TrainingDiverged


class Toy:
    """Its value falls from 1 towards `x`; the section `toy` holds `x` and, if wanted, a fault or a wait for a file."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.toy = config.get("toy", {})
        self.step = 0
        self.value = 1.0

    def train(self, steps: int) -> list[tuple[int, dict[str, float]]]:
        for _ in range(steps):
            self.step += 1
            time.sleep(self.toy.get("seconds", 0.0))
            self.value += (self.toy.get("x", 0.0) - self.value) / 10
            while self.step == self.toy.get("hold_step") and not Path(self.toy["hold"]).exists():
                time.sleep(0.05)
            if self.step == self.toy.get("fault_step", 1):
                self._fault(self.toy.get("fault"))
        return [(self.step, {"train/loss": self.value})]

    def _fault(self, kind: str | None) -> None:
        once = self.toy.get("once")  # a marker file: the fault happens in the first attempt only
        if kind is None or (once and Path(once).exists()):
            return
        if once:
            Path(once).touch()
        print(f"the fault {kind} is about to happen", flush=True)
        if kind == "diverged":
            raise TrainingDiverged(self.step, "the loss is nan", {"step": self.step - 1, "train/loss": 0.5})
        if kind == "nan":
            self.value = float("nan")
        elif kind == "oom":
            raise MemoryError("no more room")
        elif kind == "bug":
            raise KeyError("a mistake in the trainer")
        elif kind == "disk":
            raise OSError(28, "No space left on device")
        elif kind == "hang":
            time.sleep(3600)
        elif kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    def evaluate(self) -> dict[str, float]:
        return {"eval/score": self.value}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.value = state["step"], state["value"]


class Witness(Toy):
    """Tells in its metrics about the process that it runs in."""

    def evaluate(self) -> dict[str, float]:
        return {
            **super().evaluate(),
            "pid": os.getpid(),
            "omp_threads": float(os.environ["OMP_NUM_THREADS"]),
            "passive": float(os.environ["OMP_WAIT_POLICY"] == "PASSIVE"),
            "torch": float("torch" in sys.modules),
        }


class Sharing(Toy):
    """Uses data that all trials share, and counts in a file how often they were made."""

    def __init__(self, config: dict[str, Any], *, shared: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self.shared = shared if shared is not None else self.shared_data(config)

    @classmethod
    def shared_data(cls, config: dict[str, Any]) -> dict[str, Any]:
        with open(config["data"]["count"], "a") as stream:
            stream.write(f"{os.getpid()}\n")
        if len(Path(config["data"]["count"]).read_text().split()) <= config["data"].get("kills", 0):
            os.kill(os.getpid(), signal.SIGKILL)  # as the node's memory monitor does
        return {"offset": config["data"]["offset"]}

    def evaluate(self) -> dict[str, float]:
        return {"eval/score": self.value + self.shared["offset"]}


class Tensors(Toy):
    """Shares a tensor, which one trial may write into."""

    @classmethod
    def shared_data(cls, config: dict[str, Any]) -> Any:
        import torch

        return torch.zeros(3)


class Talkative(Toy):
    """Prints, logs, and has a picture to show."""

    def __init__(self, config: dict[str, Any], *, on_log: Any = None) -> None:
        super().__init__(config)
        self.on_log = on_log

    def train(self, steps: int) -> list[tuple[int, dict[str, float]]]:
        import logging

        print("to stdout")
        print("to stderr", file=sys.stderr)
        logging.getLogger("toy").warning("to the log")
        os.write(2, b"to the descriptor\n")
        rows = super().train(steps)
        if self.on_log is not None:
            self.on_log(*rows[-1])
        return rows

    def sample_grid(self) -> Any:
        import numpy as np

        return np.full((8, 8, 3), 200, dtype=np.uint8)


class Team(Toy):
    """Trains in a torch process group: its score is the mean of what its ranks hold; `fault_rank` alone has a fault."""

    def __init__(self, config: dict[str, Any]) -> None:
        from orchestrator.worker import group

        super().__init__(config)
        group.SETTLING = group.ENDING = 1.0  # in its own process: a rank of these that waits for one waits in vain

    def _fault(self, kind: str | None) -> None:
        import torch.distributed as dist

        if self.toy.get("fault_rank", dist.get_rank()) == dist.get_rank():
            super()._fault(kind)

    def evaluate(self) -> dict[str, float]:
        import ray
        import torch
        import torch.distributed as dist

        from orchestrator.worker.process_group import interface_of

        total = torch.tensor([float(dist.get_rank() + 1)])
        dist.all_reduce(total)
        return {
            "eval/score": self.value,
            "world": float(dist.get_world_size()),
            "sum_of_ranks": float(total),
            "on_rays_network": float(
                os.environ.get("GLOO_SOCKET_IFNAME") == interface_of(ray.util.get_node_ip_address())
            ),
        }


def config(*, steps: int = 4, eval_every: int = 2, seed: int = 0, **toy: Any) -> dict[str, Any]:
    """Return a configuration for these trainers."""
    return json.loads(
        json.dumps({"seed": seed, "trainer": {"steps": steps, "eval_every": eval_every}, "toy": toy}, default=str)
    )


class Wayward(Toy):
    """Does and returns what no trainer should; `toy.way` says which of these."""

    def train(self, steps: int) -> Any:
        rows = super().train(steps)
        match self.toy["way"]:
            case "leaves":
                sys.exit(0)
            case "leaves with a text":
                sys.exit("no")
            case "interrupts":
                raise KeyboardInterrupt
            case "trains text":
                return "well"
        return rows

    def evaluate(self) -> Any:
        found = super().evaluate()
        answers = {
            "None": None,
            "a list": [self.value],
            "a dict inside": {**found, "more": {"a": 1}},
            "a text inside": {**found, "note": "well"},
            "another is NaN": {**found, "other": float("nan")},
            "its own is NaN": {"eval/score": float("nan")},
        }
        return answers.get(self.toy["way"], found)

    def state_dict(self) -> dict[str, Any]:
        import numpy

        wrong = {"numpy": numpy.zeros(2)} if self.toy["way"] == "numpy state" else {}
        return {**super().state_dict(), **wrong}


class Beholder(Toy):
    """Says which GPUs its process is shown, and which were shown to the process that loaded the shared data."""

    def __init__(self, config: dict[str, Any], *, shared: str | None = None) -> None:
        super().__init__(config)
        self.device = os.environ.get("CUDA_VISIBLE_DEVICES", "all") or "none"
        self.fingerprint = shared if shared is not None else "not shared"

    @classmethod
    def shared_data(cls, config: dict[str, Any]) -> str:
        return os.environ.get("CUDA_VISIBLE_DEVICES", "all") or "none"
