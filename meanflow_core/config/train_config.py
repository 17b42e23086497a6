"""The whole training configuration: a run is fully described by one resolved `TrainConfig`."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from meanflow_core.config.custom import OFFERED, CustomSection, is_named, unfit, unimportable
from meanflow_core.config.data import DataConfig, DigitsConfig
from meanflow_core.config.defaults import FIRST, VERSION, difference
from meanflow_core.config.model import DiTConfig, ModelConfig
from meanflow_core.config.objective import ObjectiveConfig
from meanflow_core.config.section import Section
from meanflow_core.config.training import EMAConfig, EvaluationConfig, OptimizerConfig, TrainerConfig
from meanflow_core.errors import Problem


def ill_fitting(config: TrainConfig) -> list[Problem]:
    """Return what is wrong with networks, data and metrics of the user's own, without calling them; imports them."""
    found: list[Problem] = []
    if isinstance(config.model, CustomSection):
        found += unfit(config.model, "model", OFFERED)
    if isinstance(config.data, CustomSection):
        found += unfit(config.data, "data")
    for name in config.evaluation.metrics or ():
        if is_named(name):
            found += unimportable(name, "evaluation.metrics")
    return found


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """Everything that describes one training run."""

    seed: int = 0
    """Of weights, data order, times and noise: runs that share it see the same data and the same random numbers."""
    data: DataConfig = field(default_factory=DigitsConfig)
    model: ModelConfig = field(default_factory=DiTConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    evidence: dict[str, Any] = field(default_factory=dict)
    """Where this configuration comes from (the sweep and trial that chose it). Changes no number; not in the hash."""
    defaults: int = VERSION
    """Version of the defaults that keys left out have had. Not in the hash."""

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        if not FIRST <= self.defaults <= VERSION:
            rule = f"must be a version of the defaults that this release knows: {FIRST} to {VERSION}"
            yield Problem(key="defaults", value=self.defaults, rule=rule, nearest=str(VERSION))
        way = self.objective.derivative
        if self.trainer.compile and way not in ("auto", "dual"):  # their replay of dropout masks cannot be traced
            rule = "`trainer.compile` needs `dual` (or `auto`); the other ways cannot be compiled"
            yield Problem(key="objective.derivative", value=way, rule=rule, nearest="dual")
        if self.trainer.compile and getattr(self.model, "checkpoint_activations", False):
            rule = "`trainer.compile` itself chooses what the backward pass computes again: set one of the two"
            yield Problem(key="model.checkpoint_activations", value=True, rule=rule)
        if self.trainer.sharding == "fsdp":
            if self.trainer.compile:
                rule = "`trainer.sharding: fsdp` gathers weights by hooks, which one compiled graph cannot hold"
                yield Problem(key="trainer.compile", value=True, rule=rule)
            if self.objective.teacher is not None:
                rule = "`trainer.sharding: fsdp` has no shards of a teacher yet: leave it out, the network then teaches"
                yield Problem(key="objective.teacher", value=self.objective.teacher, rule=rule)
        told, scales = self.objective.guidance.input, self.evaluation.guidance
        if told and not scales:
            rule = "is empty: at which scales is a network with guidance as an input judged? e.g. [1, 1.5, 2, 3]"
            yield Problem(key="evaluation.guidance", value=scales, rule=rule)
        if scales and not told:
            rule = "only a network that is told the scale (`objective.guidance.input: true`) can be judged at several"
            yield Problem(key="evaluation.guidance", value=scales, rule=rule)
        dropout = getattr(self.model, "dropout", 0.0)
        if self.trainer.compile and dropout and self.objective.preset.leg == "data" and self.objective.has_finite_split:
            rule = f"`{self.objective.name}` needs one dropout mask in two passes, which `trainer.compile` cannot give"
            yield Problem(key="model.dropout", value=dropout, rule=rule)

    def remarks(self) -> Iterator[Problem]:
        """Yield what is allowed and hardly meant."""
        ratio, rows = self.objective.time.ratio, self.trainer.batch_size
        if ratio > 0 and round(rows * ratio) == 0:
            rule = (
                f"of {rows} rows (`trainer.batch_size`) this is none with r != t: plain flow matching, which learns no "
                "average velocity; write 0 if that is meant"
            )
            yield Problem(key="objective.time.ratio", value=ratio, rule=rule)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts and lists: what `load_config` reads back equal."""
        content = dataclasses.asdict(self)
        for key, section in (("model", self.model), ("data", self.data)):
            if isinstance(section, CustomSection):
                content[key] = copy.deepcopy(section.flat())
        return content

    def as_given(self) -> dict[str, Any]:
        """Return the same with null for what follows the objective's name, so that another name gives its own."""
        content = self.to_dict()
        for key in self.objective.followed:
            section, _, name = key.rpartition(".")
            holder = content["objective"][section] if section else content["objective"]
            holder[name] = None
        return content

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(self.to_dict()))

    def hash(self) -> str:
        """Return a text that differs where two runs would train differently (device and log intervals do not).

        It covers what differs from the defaults, each as it was when its key was new: `1-` (the first version of the
        defaults) and 16 hex digits. A key added later, or a default changed later, does not alter it.
        """
        content = json.dumps(difference(self), sort_keys=True)
        return f"{FIRST}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
