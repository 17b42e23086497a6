"""Read a YAML file together with the line of every key, so that an error can point at it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from meanflow_core.errors import ConfigError, Problem


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """PyYAML's safe loader, reading `1e-3` as a number (YAML 1.2) where PyYAML (YAML 1.1) reads a string."""


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
    """The content of a YAML file, and where each dotted key stands in it (1 is the first line)."""

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
        repeats: takes a problem for each key that stands twice, for who goes on to look for more.

    Raises:
        ConfigError: the file is missing, is not YAML, does not hold a mapping, or (without `repeats`) repeats a key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(key="", rule=f"cannot be read: {reason}", file=str(path))]) from error
    loader = _Loader(text)
    try:
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
        raise ConfigError([Problem(key="", value=text, rule="not a YAML value")]) from error


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
        return f"{problem}; is this line indented like its neighbours, and does a text with ': ' stand in quotes?"
    return problem


def _collect_lines(
    node: yaml.Node, keys: tuple[str, ...], lines: dict[tuple[str, ...], int], problems: list[Problem], file: str
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = (*keys, str(key_node.value))
            line = key_node.start_mark.line + 1
            if key in lines:
                rule = f"stands twice (first in line {lines[key]}); YAML would silently keep the last"
                problems.append(Problem(key=".".join(key), rule=rule, file=file, line=line))
                for below in [place for place in lines if place[: len(key)] == key]:
                    del lines[below]  # the last one counts: what stands in it is not said to stand twice
            lines[key] = line
            _collect_lines(value_node, key, lines, problems, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            key = (*keys, str(index))
            lines[key] = item.start_mark.line + 1
            _collect_lines(item, key, lines, problems, file)
