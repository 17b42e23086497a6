"""Read a YAML file together with the line of every key, so that an error can point at it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from meanflow_core.errors import ConfigError, Problem

MOST_BYTES = 2 * 2**20
MOST_VALUES = 50_000
"""Of a file, counted where aliases are expanded; larger ones are no configurations."""
MOST_KEYS = 1000
MOST_DIGITS = 300
DEEPEST = 50
"""Levels of mappings and lists."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """PyYAML's safe loader, with bounds; `1e-3` is a number (YAML 1.2) where PyYAML (YAML 1.1) reads a string."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}
        """Values below each finished node, by its identity."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """Compose a node, counting what it stands for before anything is expanded."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise ComposerError(None, None, "a mapping or list that holds itself by an alias", mark)
            self._count += self._sizes[id(node)]
        else:
            before, self._count, self._depth = self._count, self._count + 1, self._depth + 1
            if self._depth > DEEPEST:
                raise ComposerError(None, None, f"nested more than {DEEPEST} levels deep", mark)
            node = super().compose_node(parent, index)
            if isinstance(node, yaml.MappingNode) and len(node.value) > MOST_KEYS:
                raise ComposerError(None, None, f"a mapping of more than {MOST_KEYS:,} keys", mark)
            self._sizes[id(node)] = self._count - before
            self._depth -= 1
        if self._count > MOST_VALUES:
            raise ComposerError(None, None, f"more than {MOST_VALUES:,} values", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; a number that Python refuses is an error of the file."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:
            raise ConstructorError(None, None, f"not a number: {error}", node.start_mark) from error
        except (LookupError, AttributeError, TypeError) as error:  # PyYAML's own, e.g. of `!!bool maybe`
            raise ConstructorError(None, None, f"not what its tag {node.tag} says", node.start_mark) from error

    def construct_yaml_int(self, node: yaml.Node) -> int:
        """Construct a whole number of at most 300 digits (more than a float reaches)."""
        if len(node.value) > MOST_DIGITS:
            raise ConstructorError(None, None, f"a number of more than {MOST_DIGITS} digits", node.start_mark)
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class YamlFile:
    """The content of a YAML file, and the line of each dotted key in it (1 is the first)."""

    path: Path
    content: dict[str, Any]
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def line_of(self, *keys: str) -> int | None:
        """Return the line of a key path, or of its nearest ancestor that has one."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                return self.lines[keys[:end]]
        return None


def read_yaml(path: str | Path, repeats: list[Problem] | None = None) -> YamlFile:
    """Read a mapping from a YAML file.

    Args:
        path: the file.
        repeats: collects a problem for each duplicate key, for callers that go on to look for more.

    Raises:
        ConfigError: the file is missing, is not YAML, does not hold a mapping, or (without `repeats`) repeats a key.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:  # no size is asked for: a pipe or a device does not know its own
            content_bytes = stream.read(MOST_BYTES + 1)
        if len(content_bytes) > MOST_BYTES:
            rule = f"is too large; a configuration has at most {MOST_BYTES >> 20} MiB"
            raise ConfigError([Problem(key="", rule=rule, file=str(path))])
        text = content_bytes.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(key="", rule=f"cannot be read: {reason}", file=str(path))]) from error
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        problems: list[Problem] = [] if repeats is None else repeats
        lines: dict[tuple[str, ...], int] = {}
        if node is not None:
            _collect_lines(node, (), lines, problems, str(path))
        content = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else None
        raise ConfigError(
            [Problem(key="", rule=f"not YAML: {_explained(error)}", file=str(path), line=line)]
        ) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(content, dict):
        rule = f"must hold a mapping of keys, but holds a {type(content).__name__}"
        raise ConfigError([*problems, Problem(key="", rule=rule, file=str(path), line=1)])
    if problems and repeats is None:
        raise ConfigError(problems)
    return YamlFile(path=path, content=content, lines=lines)


def parse_value(text: str) -> Any:
    """Read one value as YAML does: `0.5` a number, `null` nothing, `[1, 2]` a list, other words text.

    Raises:
        ConfigError: the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(key="", value=text, rule=f"not a YAML value: {_explained(error)}")]) from error


def write_yaml(content: Any) -> str:
    """Return plain data as YAML, its keys in their order."""
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def _explained(error: yaml.YAMLError) -> str:
    """What is wrong, in words of who writes the file rather than of the parser."""
    problem = str(getattr(error, "problem", None) or error)
    opened = getattr(error, "context_mark", None)
    if "'\\t'" in problem:
        return "a tab cannot indent; use spaces"
    if "flow" in str(getattr(error, "context", "")) and opened is not None:
        return f"{problem}; is the bracket of line {opened.line + 1} closed?"
    if "<block end>" in problem or "mapping values are not allowed" in problem:
        return f"{problem}; is this line indented like its neighbours, and is a text with ': ' quoted?"
    return problem


def _collect_lines(
    node: yaml.Node, keys: tuple[str, ...], lines: dict[tuple[str, ...], int], problems: list[Problem], file: str
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = (*keys, str(key_node.value))
            line = key_node.start_mark.line + 1
            if key in lines:
                rule = f"duplicate key (first in line {lines[key]}); YAML would silently keep the last"
                problems.append(Problem(key=".".join(key), rule=rule, file=file, line=line))
                for below in [place for place in lines if place[: len(key)] == key]:
                    del lines[below]  # the last one counts: its keys are not duplicates
            lines[key] = line
            _collect_lines(value_node, key, lines, problems, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            key = (*keys, str(index))
            lines[key] = item.start_mark.line + 1
            _collect_lines(item, key, lines, problems, file)
