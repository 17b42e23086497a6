"""An own program as a sweep's trainer: the command that a trial runs, with W&B's macros, and where.

    program: train.py                                   trainer:
    command: [${env}, ${interpreter}, ${program}, ${args}]    {command: [./train, ${args_no_hyphens}], steps: 27}

Macros are whole words, as in W&B; `${envvar:NAME}` alone may stand within one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from meanflow_core.errors import nearest
from orchestrator.spec.reader import Path as Place
from orchestrator.spec.reader import Reader, flat

if TYPE_CHECKING:
    from orchestrator.spec.sweep import SweepSpec

ENDLESS = 10**9
"""Steps of a trial whose length nobody has said: more than any has."""
KEYS = ("program", "command", "metrics", "steps", "folder")
"""Of `trainer`, where that is a mapping."""
SOURCES = ("report", "stdout-json")
PYTHON: tuple[str, ...] = ("${env}", "${interpreter}", "${program}", "${args}")
"""W&B's default command."""
_MACRO = re.compile(r"\$\{([a-z_]+)\}")
_VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")
ARGUMENTS = (
    *("args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags"),
    *("args_append_hydra", "args_override_hydra", "args_json", "args_json_file"),
)
MACROS = ("env", "interpreter", "program", *ARGUMENTS)


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a trial runs instead of a trainer's class."""

    command: tuple[str, ...]
    """Its words, with macros."""
    program: str | None = None
    """What `${program}` stands for, relative to the folder."""
    metrics: Literal["report", "stdout-json"] = "report"
    """How it reports: by `orchestrator.report` alone, or by lines of JSON on its standard output too."""
    steps: int | None = None
    """The last step that it reports; None: nobody knows, its process says when it is at its end."""
    folder: str = "."
    """The working folder as the sweep file gives it."""
    root: str = ""
    """The same, absolute, on the machine that has read the file."""
    seeded: bool = False
    """Whether the seed is one of its arguments."""
    spelled: dict[str, list[str]] = field(default_factory=dict)
    """Keys that hold a dot and yet are one name in the file, as W&B's JSON has them: dotted key -> its levels."""

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> Self:
        """Rebuild it from `asdict`, also after a trip through JSON."""
        return cls(**{**source, "command": tuple(source["command"])})

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes."""
        return {**asdict(self), "command": list(self.command)}

    @property
    def name(self) -> str:
        """It in a word: its file, or its command."""
        return self.program or shlex.join(self.command)

    @property
    def identity(self) -> dict[str, Any]:
        """What another result may come from, besides its parameters and its code."""
        return {"program": self.program, "command": list(self.command)}

    def place(self) -> Path:
        """Return the working folder here: where the sweep file was read, or, on another node, below this one's."""
        folders = [folder for folder in (Path(self.root), Path.cwd() / self.folder) if folder.is_dir()]
        for folder in folders:
            file = self.file_in(folder)
            if file is None or _is_file(file):
                return folder
        return folders[0] if folders else Path(self.root)

    def file_in(self, folder: Path) -> Path | None:
        """Return where the program's file should be, given its working folder; None: the command names none."""
        if self.program is not None:
            return folder / self.program
        return next((folder / word for word in self.command if _is_file(folder / word)), None)

    def scripts(self, folder: Path) -> list[Path]:
        """Return the files of the command that are there: the program's, and others that its words name."""
        named = [word for word in self.command if not word.startswith("${") and not os.path.isabs(word)]
        words = [*([self.program] if self.program else []), *named, *self._modules()]
        found = [folder / word for word in words if _is_file(folder / word)]
        return list(dict.fromkeys(file.resolve() for file in found))

    def _modules(self) -> list[str]:
        """The files of `-m package.module`."""
        pairs = zip(self.command, self.command[1:], strict=False)
        names = [name.replace(".", "/") for word, name in pairs if word == "-m"]
        return [f"{name}{end}" for name in names for end in (".py", "/__main__.py", "/__init__.py")]

    # ------------------------------------------------------------------------------------------ command

    def words(self, config: Mapping[str, Any], *, json_file: Path | str) -> list[str]:
        """Return the command of a trial.

        Args:
            config: its parameters, nested.
            json_file: where they stand as JSON.
        """
        given = self.parameters(config)
        each = flat(given)
        plain = {key: value for key, value in each.items() if not isinstance(value, bool)}
        bare = [f"{key}={value}" for key, value in each.items()]
        by_macro: dict[str, list[str]] = {
            "env": ["/usr/bin/env"],
            "interpreter": [sys.executable],
            "program": [self.program] if self.program else [],
            "args": [f"--{word}" for word in bare],
            "args_no_equals": [word for key, value in each.items() for word in (f"--{key}", str(value))],
            "args_no_hyphens": bare,
            "args_append_hydra": [f"+{word}" for word in bare],
            "args_override_hydra": [f"++{word}" for word in bare],
            "args_no_boolean_flags": [
                f"--{key}" if key not in plain else f"--{key}={value}"
                for key, value in each.items()
                if value is not False
            ],
            "args_json": [json.dumps(self.as_spelled(given))],
            "args_json_file": [str(json_file)],
        }
        found: list[str] = []
        for word in self.command:
            macro = _MACRO.fullmatch(word)
            found += by_macro[macro[1]] if macro else [_VARIABLE.sub(lambda m: os.environ.get(m[1], m[1]), word)]
        return found

    def parameters(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of a trial's configuration the program gets: all of it, the seed where the sweep file speaks of
        seeds."""
        return {key: value for key, value in config.items() if key != "seed" or self.seeded}

    def as_spelled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return nested parameters under the names that the sweep file gives them."""
        found: dict[str, Any] = {}
        for key, value in flat(given).items():
            *groups, leaf = self.spelled.get(key, key.split("."))
            below = found
            for group in groups:
                below = below.setdefault(group, {})
            below[leaf] = value
        return found


def is_program(content: Mapping[str, Any]) -> bool:
    """Whether a sweep file's trials are an own program: it has a `program` or a `command` and names no class."""
    trainer = content.get("trainer")
    return isinstance(trainer, Mapping) or (
        trainer is None and any(content.get(key) is not None for key in ("program", "command"))
    )


def find_folder(content: Mapping[str, Any], beside: Path) -> str:
    """Return the working folder of a sweep file's program, absolute.

    It is what `folder` says, relative to the sweep file; else the first of the sweep file's folder and the current one
    in which the program's file is, since W&B's agents look in the current one.
    """
    block = content.get("trainer") if isinstance(content.get("trainer"), Mapping) else {}
    said = (block or {}).get("folder")
    if isinstance(said, str):
        return str((beside / said).resolve())
    program, command = (content.get(key) or (block or {}).get(key) for key in ("program", "command"))
    words = [str(program)] if program else _words(command)
    for folder in (beside, Path.cwd()):
        if any(_is_file(folder / word) for word in words if not word.startswith("${")):
            return str(folder.resolve())
    return str(beside.resolve())


def read_program(
    reader: Reader, content: Mapping[str, Any], *, root: str, seeded: bool, paths: Mapping[str, Place]
) -> Program:
    """Read `program`, `command` and the mapping `trainer`.

    Args:
        reader: takes the problems.
        content: of the whole sweep file.
        root: see `find_folder`.
        seeded: see `Program`.
        paths: where each parameter stands.
    """
    at: Place = ("trainer",)
    block = reader.mapping(at, content.get("trainer"), KEYS)
    for key in ("program", "command"):
        if content.get(key) is not None and block.get(key) is not None:
            reader.wrong((*at, key), f"stands beside the `{key}` of the file; keep one", block[key])
    top = {key for key in ("program", "command") if content.get(key) is not None}  # `metrics` there are the sweep's
    places: dict[str, Place] = {key: (key,) if key in top else (*at, key) for key in KEYS}
    said = {key: content.get(key) if len(places[key]) == 1 else block.get(key) for key in KEYS}
    program = reader.text(places["program"], said["program"], "") or None
    command = _command(reader, places["command"], said["command"], program)
    if not command and program is None and not reader.problems:
        reader.wrong(at, "needs a `program` (a file) or a `command` (a list of words)")
    if "${program}" in command and program is None:
        reader.wrong(places["command"], "has ${program}, and there is no `program`")
    return Program(
        command=command,
        program=program,
        metrics=cast(
            Literal["report", "stdout-json"],
            reader.choice(places["metrics"], said["metrics"], SOURCES, SOURCES[0]),
        ),
        steps=reader.whole(places["steps"], said["steps"], low=1),
        folder=reader.text(places["folder"], said["folder"], "."),
        root=root,
        seeded=seeded,
        spelled={key: levels for key, path in paths.items() if (levels := _levels(path)) != key.split(".")},
    )


def check_program(reader: Reader, program: Program, spec: SweepSpec) -> None:
    """Note what an own program cannot do, and what should be known of this one."""
    if spec.method.population:
        rule = "copies one trial's checkpoint into another's, which only a trainer's class can load"
        reader.wrong(("method",), rule, spec.method.name)
    if spec.resources.workers > 1:
        rule = "is of a trainer's class: an own program starts its processes itself; grant it whole GPUs (`gpu: 2`)"
        reader.wrong(("resources", "workers"), rule, spec.resources.workers)
    if not any(f"${{{macro}}}" in program.command for macro in ARGUMENTS):
        text = "has no ${args}: the program has to read its parameters from the file that $MEANSWEEP_PARAMETERS names"
        reader.note(("command",), text)
    if spec.early_terminate.steps_of_rungs(ENDLESS) and program.steps is None:
        text = "counts the steps that the program reports; `trainer: {steps: N}` says which is its last, never judged"
        reader.note(("early_terminate",), text)
    if spec.replicates is not None:
        reader.note(("replicates",), "the program gets each seed as `--seed=N`, and as $MEANSWEEP_SEED")


def _command(reader: Reader, place: Place, given: Any, program: str | None) -> tuple[str, ...]:
    if given is None:
        if program is None:
            return ()
        runs = program if os.path.dirname(program) else f"./{program}"
        return PYTHON if program.endswith(".py") else (runs, "${args}")
    try:
        words = _words(given) if isinstance(given, str) else [str(word) for word in reader.sequence(place, given)]
    except ValueError as error:
        reader.wrong(place, f"cannot be split into words: {error}", given)
        return ()
    if not words and isinstance(given, list | str):
        reader.wrong(place, "is empty: which program does a trial run?")
    for word in words:
        macro = _MACRO.fullmatch(word)
        if macro and macro[1] not in MACROS:
            known = ", ".join(f"${{{name}}}" for name in MACROS)
            close = nearest(macro[1], MACROS)
            reader.wrong(place, f"unknown macro; there are {known} and ${{envvar:NAME}}", word, close=close)
    return tuple(words)


def _words(command: Any) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command or ()]


def _levels(path: Sequence[str]) -> list[str]:
    """The levels of names of a parameter's place: without `parameters` between them."""
    return [name for index, name in enumerate(path) if index % 2 == 1]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a word too long for a file's name
        return False
