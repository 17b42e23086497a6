"""The folder of a training that runs on its own: what is in it, and where to go on.

config.yaml            the complete configuration
record.json            what was found out in training: how du/dt was had, and why
metrics.jsonl          one JSON object a logged row or evaluation, each with its step
checkpoints/step-N/    the last two checkpoints
weights.safetensors    the primary weights of the last checkpoint, usable alone
samples-step-N.png     pictures, where Pillow is installed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meanflow_core.config import FIRST, RECORDS, TrainConfig, load_config, with_values
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.training import Trainer, is_checkpoint, load_checkpoint, save_checkpoint

KEPT = 2
"""Checkpoints that are kept."""


class RunFolder:
    """One training's folder.

    Args:
        root: the folder; made when something is written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.config, self.metrics = self.root / "config.yaml", self.root / "metrics.jsonl"
        self.record = self.root / "record.json"
        self.checkpoints, self.weights = self.root / "checkpoints", self.root / "weights.safetensors"

    def claim(self, config: TrainConfig) -> None:
        """Write the configuration, or check that it is the one whose training stands here; it may train longer.

        Raises:
            ConfigError: another training stands here.
        """
        differences = self.differences(config)
        if differences and self.steps_before(config) is None:
            rule = (
                f"holds the training of another configuration ({differences}); choose another folder with --out, or "
                "delete it"
            )
            raise ConfigError([Problem(key="--out", value=str(self.root), rule=rule)])
        self.root.mkdir(parents=True, exist_ok=True)
        aside = self.config.with_suffix(".tmp")
        aside.write_text(config.to_yaml(), encoding="utf-8")
        aside.replace(self.config)

    def steps_before(self, config: TrainConfig) -> int | None:
        """Return the `trainer.steps` of the training that stands here, where this is the same one made longer."""
        if not self.config.exists():
            return None
        found = load_config(self.config)
        same = with_values(found, {"trainer.steps": config.trainer.steps}).hash() == config.hash()
        return found.trainer.steps if same and found.trainer.steps < config.trainer.steps else None

    def differences(self, config: TrainConfig) -> str:
        """Say in what the training that stands here, if any, is another one; empty where it is the same."""
        if not self.config.exists():
            return ""
        found = load_config(self.config, defaults=FIRST)
        if found.hash() == config.hash():
            return ""
        there, here = ({**c.to_dict(), **dict.fromkeys(RECORDS)} for c in (found, config))
        keys = sorted(_leaves(there) | _leaves(here))
        said = [f"{key}: {_value(there, key)} there, {_value(here, key)} here" for key in keys]
        differing = [line for key, line in zip(keys, said, strict=True) if _value(there, key) != _value(here, key)]
        return "; ".join(differing[:4]) + ("; ..." if len(differing) > 4 else "")

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, ascending."""
        names = (p.name.strip(".").removesuffix(".old") for p in self.checkpoints.glob("*step-*"))
        found = {name.removeprefix("step-") for name in names if is_checkpoint(self.checkpoints / name)}
        return sorted(int(step) for step in found if step.isdigit())

    def resume(self, trainer: Trainer) -> int:
        """Load the newest checkpoint, if there is one, and forget metrics that came after it.

        Returns:
            The step at which the training stands now.

        Raises:
            CheckpointError: the newest checkpoint is damaged or does not fit; delete it to go on from the one before.
        """
        if steps := self.steps():
            trainer.load_state_dict(load_checkpoint(self._checkpoint(steps[-1])))
        if trainer.world.first and self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").split("\n")[:-1]  # a torn last line has no newline
            kept = [line for line in lines if json.loads(line)["step"] <= trainer.step]
            self.metrics.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return trainer.step

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint and the primary weights, and delete checkpoints that are no longer kept."""
        save_checkpoint(self._checkpoint(trainer.step), trainer.state_dict())
        trainer.export(self.weights)
        for step in self.steps()[:-KEPT]:
            shutil.rmtree(self._checkpoint(step))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one row."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def note(self, trainer: Trainer) -> None:
        """Write the record."""
        found = {"derivative": trainer.derivative_record()}
        self.record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def picture(self, step: int, nfe: int) -> Path:
        """Return the path of a picture of samples."""
        return self.root / f"samples-step-{step}-{nfe}nfe.png"

    def _checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step}"


def _leaves(content: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in content.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return found


def _value(content: Mapping[str, Any], key: str) -> Any:
    value: Any = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
