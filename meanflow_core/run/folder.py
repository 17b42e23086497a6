"""The folder of a training that runs on its own: what is in it, and where to go on.

config.yaml            the complete configuration
record.json            what was found out in training: how du/dt was had, and why
metrics.jsonl          one JSON object a logged row or evaluation, each with its step
checkpoints/step-N/    the last two checkpoints
averages/              the averages of `ema.lengths` at several steps, of which one of any length can be made
weights.safetensors    the primary weights of the last checkpoint, usable alone
samples-step-N.png     pictures, where Pillow is installed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from meanflow_core.config import FIRST, LONGEST, RECORDS, TrainConfig, load_config, with_values
from meanflow_core.errors import ConfigError, Problem
from meanflow_core.training import (
    BackgroundWriter,
    Trainer,
    coefficients,
    combined,
    is_checkpoint,
    length_name,
    length_of,
    load_checkpoint,
    load_metadata,
    load_weights,
    save_checkpoint,
    save_weights,
    take_snapshot,
)

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
        self.averages, self.record = self.root / "averages", self.root / "record.json"
        self.checkpoints, self.weights = self.root / "checkpoints", self.root / "weights.safetensors"

    def claim(self, config: TrainConfig) -> None:
        """Begin here, or go on: the training that stands here must be this one; it may train longer.

        Writes the configuration, and deletes what a killed process was writing.

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
        for torn in self.checkpoints.glob(".step-*.tmp"):
            shutil.rmtree(torn)

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

    def load(self, trainer: Trainer) -> None:
        """Load the newest checkpoint, if there is one; nothing is changed here.

        Raises:
            CheckpointError: it is damaged or does not fit; delete it to go on from the one before.
        """
        if steps := self.steps():
            trainer.load_state_dict(load_checkpoint(self._checkpoint(steps[-1])))

    def resume(self, trainer: Trainer) -> int:
        """Load the newest checkpoint, if there is one, and forget metrics that came after it.

        Returns:
            The step at which the training stands now.

        Raises:
            CheckpointError: see `load`.
        """
        self.load(trainer)
        if trainer.world.first and self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").split("\n")[:-1]  # a torn last line has no newline
            kept = [line for line in lines if json.loads(line)["step"] <= trainer.step]
            self.metrics.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return trainer.step

    def save(self, trainer: Trainer, writer: BackgroundWriter) -> None:
        """Write a checkpoint and the primary weights, and delete checkpoints that are no longer kept.

        The state is copied here; the writer writes it while the training goes on. In a process group the first one
        writes; of a network in shards every process calls this.
        """
        state, (weights, metadata) = trainer.state_dict(), trainer.exported()
        if not trainer.world.first:
            return
        checkpoint, snapshot = self._checkpoint(trainer.step), take_snapshot(state)
        copied = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

        def write() -> None:
            save_checkpoint(checkpoint, snapshot)
            save_weights(self.weights, copied, metadata)
            for step in self.steps()[:-KEPT]:
                shutil.rmtree(self._checkpoint(step))

        writer.begin(write)

    def store_averages(self, trainer: Trainer, writer: BackgroundWriter) -> None:
        """Write the averages of `ema.lengths`, which are all kept: an average of another length is made of them.

        Called by the same processes as `save`.
        """
        path, averages = self._averages(trainer.step), trainer.state_dict()["ema"]
        if not trainer.world.first:
            return
        names = [length_name(length) for length in trainer.config.ema.lengths]
        copied = {f"{name}/{key}": t.detach().cpu().clone() for name in names for key, t in averages[name].items()}
        writer.begin(lambda: save_weights(path, copied, {"step": trainer.step}))

    def is_settled(self, config: TrainConfig) -> bool:
        """Whether the weights here are those of the last step that `ema.length` asks for."""
        if not self.weights.is_file():
            return False
        metadata = load_metadata(self.weights)
        told, length = metadata["config"].get("ema", {}), config.ema.length
        chosen = length_of(metadata["weights"]) is not None
        same = told.get("length") == length and chosen == (length is not None)
        return bool(metadata["step"] == config.trainer.steps and same)

    def leave(self, trainer: Trainer, length: float | None) -> None:
        """Write the average of a length, or the primary weights, as those of the training.

        Called by the same processes as `save`.
        """
        weights, metadata = trainer.exported()
        if length is not None:
            weights, metadata["weights"] = self.average(length, trainer.step), length_name(length)
        if trainer.world.first:
            save_weights(self.weights, weights, metadata)

    def snapshots(self) -> list[int]:
        """Return the steps at which averages were stored, ascending."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.averages.glob("step-*.safetensors"))

    def average(self, length: float, step: int) -> dict[str, Tensor]:
        """Return the average of a length at a step, made of those that were stored up to it.

        Raises:
            ConfigError: none were stored, or there is no such length.
        """
        if not 0 < length < LONGEST:
            rule = f"must be above 0 and below {LONGEST}"
            raise ConfigError([Problem(key="--ema-length", value=length, rule=rule)])
        steps = [at for at in self.snapshots() if at <= step]
        lengths = load_config(self.config).ema.lengths if steps else []
        if not lengths:
            rule = "this training stored no averages to choose a length from (`ema.lengths`, e.g. [0.05, 0.1])"
            raise ConfigError([Problem(key="--ema-length", value=length, rule=rule)])
        shares = iter(coefficients([(one, at) for at in steps for one in lengths], length, step))

        def parts() -> Iterator[tuple[float, dict[str, Tensor]]]:
            for at in steps:  # one file at a time
                weights, _ = load_weights(self._averages(at))
                for name in map(length_name, lengths):
                    yield next(shares), {k.partition("/")[2]: v for k, v in weights.items() if k.startswith(f"{name}/")}

        return combined(parts())

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

    def _averages(self, step: int) -> Path:
        return self.averages / f"step-{step}.safetensors"

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
