"""The sweep file, read and checked as a whole: every mistake at once, before anything starts.

Reading needs neither torch nor Ray, Optuna or MLflow.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from meanflow_core.config import (
    FIRST,
    NOT_IN_IDENTITY,
    TrainConfig,
    YamlFile,
    is_named,
    load_config,
    read_yaml,
    with_values,
)
from meanflow_core.errors import ConfigError, Problem
from orchestrator.search import Method, Replicates, Rule
from orchestrator.space import Space
from orchestrator.spec.checks import check_configs, check_keys, check_metrics, check_together
from orchestrator.spec.names import check_groups, check_key, check_sweep_name, folder_name
from orchestrator.spec.program import ENDLESS, Program, find_folder, is_program, read_program
from orchestrator.spec.read_parameters import read_parameters
from orchestrator.spec.read_plain import default_to, read_method, read_seed, read_trainer, read_warm_start
from orchestrator.spec.read_relations import read_space
from orchestrator.spec.read_settings import (
    NOT_NEEDED,
    REFUSED,
    note_wandb,
    read_budget,
    read_duration,
    read_early_terminate,
    read_max_concurrent,
    read_metrics,
    read_replicates,
    read_resources,
)
from orchestrator.spec.reader import Reader, flat, put
from orchestrator.spec.settings import Budget, Metric, Resources
from orchestrator.spec.sweep_file import (
    DEFAULT_TRAINER,
    KEYS,
    read_content,
    refuse_training_configuration,
)
from orchestrator.spec.try_first import check_try_first, read_try_first

NAMED_CODE = ("model.name", "data.name", "evaluation.metrics", "evaluation.features")
"""Keys of the training configuration that may be package.module:name."""


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """One sweep, complete and checked."""

    name: str
    """Of its folder, and in commands."""
    title: str = ""
    """Its name as the file gives it."""
    file: str | None = None
    """Where it was read from."""
    description: str = ""
    source: dict[str, Any]
    """What `from_source` rebuilds this from: JSON, with the resolved base configuration."""
    base: dict[str, Any]
    """Nested training configuration (complete for the MeanFlow trainer)."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted key -> value, in every trial; unconditional constants of `parameters` are among them."""
    trainer: str = DEFAULT_TRAINER
    """`package.module:Class`; of an own program its name."""
    program: Program | None = None
    """What trials run instead of a trainer's class."""
    method: type[Method]
    metrics: tuple[Metric, ...]
    run_cap: int | None = None
    space: Space
    try_first: tuple[dict[str, Any], ...] = ()
    """Dotted key -> value: what the search begins with; keys that are left out are drawn."""
    early_terminate: Rule = field(default_factory=Rule)
    replicates: Replicates | None = None
    select: Literal["expected", "observed"] = "expected"
    """Whether the best configuration is that of the best expected value, or of the best one that was seen."""
    resources: Resources = field(default_factory=Resources)
    budget: Budget = field(default_factory=Budget)
    retries: int = 2
    seed: int = 0
    on_duplicate: Literal["reuse", "skip", "run"] = "reuse"
    warm_start: tuple[str, ...] = ()
    max_concurrent: int | None = None
    report_timeout: float | None = None
    """Seconds without a report after which a trial's worker is given up; None: never."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the user should know though nothing is wrong: W&B keys without use here, and the like."""

    @property
    def metric(self) -> Metric:
        """The first metric: the one that is ranked by."""
        return self.metrics[0]

    @property
    def limited(self) -> bool:
        """Whether `run_cap` or a budget ends it."""
        budget = self.budget
        return bool(self.run_cap or budget.gpu_hours or budget.wall_clock or budget.trials)

    @property
    def extended(self) -> Mapping[str, int]:
        """What `extend` has added to the file's own numbers: dotted key -> trials."""
        return cast(Mapping[str, int], self.source.get("extended", {}))

    @property
    def standalone(self) -> dict[str, Any]:
        """The sweep file with its base configuration in it, not beside it: read anywhere, it is the same sweep."""
        content: dict[str, Any] = json.loads(json.dumps(self.source["sweep"]))
        if self.program is not None and self.program.root:  # it is looked for where it was, and not beside the copy
            content["trainer"] = {**(content.get("trainer") or {}), "folder": self.program.root}
        return {**content, "base": self.base_config.as_given() if self.builtin_trainer else self.source["base"]}

    @property
    def builtin_trainer(self) -> bool:
        """Whether trials are of the MeanFlow trainer, whose configuration is known and checked."""
        return self.trainer == DEFAULT_TRAINER and self.program is None

    @property
    def named_code(self) -> list[str]:
        """What trials import by its package.module:name besides the trainer: networks, data, metrics, features."""
        found: list[Any] = []
        for key in NAMED_CODE:
            section, _, leaf = key.partition(".")
            found.append(self.set.get(key, (self.base.get(section) or {}).get(leaf)))
            found += [choice for p in self.space.parameters if p.name == key for choice in p.choices or ()]
        words = [word for value in found for word in (value if isinstance(value, list) else [value])]
        return [word for word in words if is_named(word)]

    @cached_property
    def base_config(self) -> TrainConfig:
        """The base, checked; of the MeanFlow trainer alone."""
        return load_config(self.base, defaults=FIRST)

    @property
    def defaults(self) -> int | None:
        """The version of the training configuration's defaults that this sweep goes by; None: its trainer has none."""
        return self.base_config.defaults if self.builtin_trainer else None

    def config_for(self, values: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
        """Return the complete nested training configuration of a trial.

        Args:
            values: dotted keys, as `Space.suggest` returns them.
            seed: of the trial; None leaves the base's.

        Raises:
            ConfigError: the values break a rule of the training configuration.
        """
        values = {**self.set, **values, **({} if seed is None else {"seed": seed})}
        if self.builtin_trainer:
            return with_values(self.base_config, values).to_dict()
        config = copy.deepcopy(self.base)
        for key, value in values.items():
            put(config, key, copy.deepcopy(value))
        return config

    def config_hash(self, config: Mapping[str, Any]) -> str:
        """Return a text that differs where two configurations would train differently: see `TrainConfig.hash`.

        Of a trainer whose defaults are not known, 16 hex digits of all that it gets.
        """
        if self.builtin_trainer:
            return load_config(config).hash()
        content = {key: value for key, value in flat(config).items() if key not in NOT_IN_IDENTITY}
        trainer = self.trainer if self.program is None else self.program.identity
        text = json.dumps({"trainer": trainer, "config": content}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def length(self, config: Mapping[str, Any]) -> int:
        """Return a trial's last step; `ENDLESS` of a program that alone knows when it is at its end."""
        if self.program is not None:
            return self.program.steps or ENDLESS
        return int(config["trainer"]["steps"])

    def rungs(self, config: Mapping[str, Any], *, bracket: int = 0) -> list[int]:
        """Return the steps of a trial's rungs, ascending, without its last step."""
        batch_size = 1 if self.program is not None else int(config["trainer"].get("batch_size", 1))
        return self.early_terminate.steps_of_rungs(self.length(config), batch_size=batch_size, bracket=bracket)

    def rungs_before(self, steps: int, values: Mapping[str, Any]) -> list[int]:
        """Return the rungs below a step, of a trial with these values; they may be of an earlier revision."""
        if self.program is not None:
            return self.early_terminate.steps_of_rungs(steps)
        batch_size = {**flat(self.base), **self.set, **values}.get("trainer.batch_size", 1)
        return self.early_terminate.steps_of_rungs(steps, batch_size=int(batch_size))

    def report_steps(self, config: Mapping[str, Any]) -> list[int]:
        """Return the steps at which a trial evaluates and reports: every `eval_every`, its rungs, and its last.

        A program reports where it likes; of one, its rungs.
        """
        if self.program is not None:
            return self.rungs(config)
        length = int(config["trainer"]["steps"])
        every = int(config["trainer"].get("eval_every", length))
        return sorted({*range(every, length, every), *self.rungs(config), length})

    @classmethod
    def from_source(cls, source: Mapping[str, Any]) -> SweepSpec:
        """Rebuild a sweep from its `source`; no file is read.

        Raises:
            ConfigError: the source does not describe a sweep.
        """
        reader = Reader(source.get("file"))
        base = copy.deepcopy(source["base"])
        content = copy.deepcopy(source["sweep"])
        spec = _assemble(reader, content, base, file=source.get("file"), stem="sweep", root=source.get("root", ""))
        if reader.problems:
            raise ConfigError(reader.problems)
        spec.source.update({key: source[key] for key in ("extended",) if source.get(key)})
        return spec


def read_spec(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), *, defaults: int | None = None
) -> SweepSpec:
    """Read a sweep file.

    Args:
        source: the YAML file; or its content, whose `base` is relative to the current folder.
        overrides: `key=value` words. A key of the sweep file (`run_cap=8`, `budget.trials=9`,
            `parameters.optimizer.lr={min: 1e-4, max: 1e-2}`) replaces it there; a key of the training configuration
            (`trainer.steps=100`) is put into `set`.
        defaults: the version of the training configuration's defaults where the base does not say; None: the present.

    Raises:
        ConfigError: listing every mistake of the file and of its base, with line and nearest valid choice.
    """
    repeats: list[Problem] = []
    if isinstance(source, Mapping):
        document, path = YamlFile(path=Path("sweep"), content=dict(source)), None
    else:
        document, path = read_yaml(source, repeats), str(source)
    refuse_training_configuration(document)
    reader = Reader(path, document)
    reader.problems += repeats
    content, base = read_content(reader, document, overrides, defaults)
    root = find_folder(content, Path(path or "").parent) if is_program(content) else ""
    spec = _assemble(reader, content, base, file=path, stem=document.path.stem, root=root)
    check_metrics(reader, spec)
    check_configs(reader, spec)
    if not reader.problems:
        check_try_first(reader, spec)
    if reader.problems:
        raise ConfigError(sorted(reader.problems, key=lambda p: (p.file != path, p.line or 0)))
    object.__setattr__(spec, "notes", tuple(reader.notes))
    return spec


def _assemble(
    reader: Reader,
    content: dict[str, Any],
    base: dict[str, Any],
    *,
    file: str | None,
    stem: str,
    root: str,
) -> SweepSpec:
    """Build the spec from plain content, noting problems; the result is only good if there are none."""
    content = {key: value for key, value in content.items() if not key.startswith("x-")}  # what anchors are kept in
    reader.keys((), {key: None for key in content if key not in NOT_NEEDED and key not in REFUSED}, KEYS)
    note_wandb(reader, content)
    own_program = is_program(content)
    trainer = DEFAULT_TRAINER if own_program else read_trainer(reader, content)
    own = trainer == DEFAULT_TRAINER and not own_program
    settings = flat(reader.mapping(("set",), content.get("set")))
    draft = read_parameters(reader, content.get("parameters"))
    program = None
    if own_program:
        seeded = any(content.get(key) is not None for key in ("seed", "replicates"))
        seeded = seeded or "seed" in {**settings, **draft.paths, **base}
        program = read_program(reader, content, root=root, seeded=seeded, paths=draft.paths)
        trainer = program.name
    if own:
        check_keys(reader, draft, settings, base)
    else:
        places = [*((path, key) for key, path in draft.paths.items()), *((("set", key), key) for key in settings)]
        for path, key in places:
            check_key(reader, path, key)
        check_groups(reader, places, flat(base))
    reader.places = draft.paths
    for key in settings:
        if key in draft.paths:
            reader.wrong(("set", key), "is also varied by `parameters`", settings[key])
    space = read_space(reader, draft, content, {**flat(base), **settings}, open_keys=not own)
    constants = {key: p.choices[0] for key, p in draft.parameters.items() if p.kind == "constant" and not p.when}
    metrics = read_metrics(reader, content)
    early = read_early_terminate(reader, content.get("early_terminate"))
    title = reader.text(("name",), content.get("name"), stem)
    name = folder_name(title) or title
    if name != title:
        reader.note(("name",), f"is a title; in commands, and as a folder, the sweep is {name}")
    spec = SweepSpec(
        name=name,
        title=title,
        file=file,
        description=reader.text(("description",), content.get("description"), ""),
        source={
            **{"format": 1, "file": file, "sweep": {**content, "name": title}, "base": base},
            **({"root": root} if own_program else {}),
        },
        base=base,
        set={**settings, **constants},
        trainer=trainer,
        program=program,
        method=read_method(reader, content),
        metrics=metrics,
        run_cap=reader.whole(("run_cap",), content.get("run_cap"), low=1),
        space=space,
        try_first=read_try_first(reader, content, space),
        early_terminate=early,
        replicates=read_replicates(reader, content.get("replicates")),
        select=cast(
            Literal["expected", "observed"],
            reader.choice(("select",), content.get("select"), ("expected", "observed"), "expected"),
        ),
        resources=read_resources(reader, content.get("resources")),
        budget=read_budget(reader, content.get("budget")),
        retries=default_to(reader.whole(("retries",), content.get("retries")), 2),
        seed=read_seed(reader, content, settings, base),
        on_duplicate=cast(
            Literal["reuse", "skip", "run"],
            reader.choice(("on_duplicate",), content.get("on_duplicate"), ("reuse", "skip", "run"), "reuse"),
        ),
        warm_start=tuple(read_warm_start(reader, content)),
        max_concurrent=read_max_concurrent(reader, content),
        report_timeout=read_duration(reader, ("report_timeout",), content.get("report_timeout")),
    )
    check_sweep_name(reader, name)
    check_together(reader, spec)
    object.__setattr__(spec, "notes", tuple(reader.notes))
    return spec
