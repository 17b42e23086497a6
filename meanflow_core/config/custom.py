"""`model` and `data` of the user's own: `name: package.module:Class`, and beside it the arguments it is called with."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from meanflow_core.config.section import Section
from meanflow_core.errors import ConfigError, Problem, nearest

OFFERED = ("shape", "num_classes", "guided", "condition_shape")
"""Arguments that a network of the user's own is given where its signature has them."""
_NAMED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class CustomSection(Section):
    """A class (or function) of the user's own, and its arguments."""

    name: str
    """package.module:Class, of an installed package or of a file in the folder that the command is started in."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Plain values; they stand beside `name` in the file."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        try:
            json.dumps(self.arguments, allow_nan=True)
        except (TypeError, ValueError) as error:
            yield Problem(key="", rule=f"the arguments of {self.name} must be plain values ({error})")

    def flat(self) -> dict[str, Any]:
        """Return it as it stands in a file."""
        return {"name": self.name, **self.arguments}


@dataclass(frozen=True, kw_only=True)
class CustomModel(CustomSection):
    """A network of the user's own: u = net(z, r, t, labels)."""


@dataclass(frozen=True, kw_only=True)
class CustomData(CustomSection):
    """Data of the user's own: rows, or rows with labels and conditions."""


def is_named(name: object) -> bool:
    """Whether a name is of the form package.module:name."""
    return isinstance(name, str) and _NAMED.fullmatch(name) is not None


def bare_name(name: str) -> str:
    """Return `name` of package.module:name, and any other name as it is: what a metric is logged by."""
    return name.rpartition(":")[2]


def imported(module: str) -> ModuleType:
    """Import a module of the user's own; one that would end Python as it is imported raises an ImportError."""
    try:
        return importlib.import_module(module)
    except SystemExit as error:
        rule = f"{module} calls sys.exit({error.code!r}) as it is imported; put that below `if __name__ == '__main__':`"
        raise ImportError(rule, name=module) from error


def import_named(name: str, key: str) -> Any:
    """Return what package.module:name names.

    Args:
        name: of that form.
        key: where it stands, for the error.

    Raises:
        ConfigError: the module cannot be found, or has no such name (with the nearest).
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = imported(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists and misses something itself: its own error says more
        rule = (
            f"there is no module {module_name!r}; it is looked for in the current folder and among installed packages"
        )
        raise ConfigError([Problem(key=key, value=name, rule=rule)]) from error
    if not hasattr(module, attribute):
        names = [word for word, value in vars(module).items() if callable(value)]
        rule = f"module {module_name} has no {attribute!r}"
        raise ConfigError([Problem(key=key, value=name, rule=rule, nearest=nearest(attribute, names))])
    found = getattr(module, attribute)
    if not callable(found):
        rule = f"must name a class or a function, and names a {type(found).__name__}"
        raise ConfigError([Problem(key=key, value=name, rule=rule)])
    return found


def call_named(section: CustomSection, key: str, offered: Mapping[str, Any] | None = None) -> Any:
    """Call what a section names with its arguments.

    Args:
        section: the name and the arguments.
        key: of the section, `model` or `data`.
        offered: further arguments, each given only where the signature has a parameter of that name and the section
            says nothing about it.

    Raises:
        ConfigError: it cannot be imported, or does not take these arguments.
    """
    made, offered = import_named(section.name, f"{key}.name"), offered or {}
    fitting = _fitting(made, section, key, offered)
    return made(**section.arguments, **fitting)


def unfit(section: CustomSection, key: str, offered: Iterable[str] = ()) -> list[Problem]:
    """Return what is wrong with a section's name and arguments, without calling it. Imports its module."""
    try:
        _fitting(import_named(section.name, f"{key}.name"), section, key, dict.fromkeys(offered))
    except ConfigError as error:
        return error.problems
    except Exception as error:  # the user's module does what it likes when it is imported
        return [Problem(key=f"{key}.name", value=section.name, rule=f"cannot be imported ({explained(error)})")]
    return []


def unimportable(name: str, key: str) -> list[Problem]:
    """Return why package.module:name cannot be imported; empty if it can be."""
    try:
        import_named(name, key)
    except ConfigError as error:
        return error.problems
    except Exception as error:  # as above
        return [Problem(key=key, value=name, rule=f"cannot be imported ({explained(error)})")]
    return []


def explained(error: Exception) -> str:
    """Return an error's kind and first line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _fitting(made: Any, section: CustomSection, key: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """What is offered and wanted. Raises ConfigError where the arguments do not fit the signature."""
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):  # of C, without a signature: the call itself will tell
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [name for name, parameter in parameters.items() if parameter.kind in kinds]
    fitting = {name: value for name, value in offered.items() if name in named and name not in section.arguments}
    given = {*section.arguments, *fitting}
    problems: list[Problem] = []
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        takes = ", ".join(named) or "none"
        problems += [
            Problem(
                key=f"{key}.{name}",
                rule=f"{section.name} takes no such argument; it takes {takes}",
                nearest=nearest(name, named),
            )
            for name in section.arguments
            if name not in named
        ]
    problems += [
        Problem(key=f"{key}.{name}", rule=f"is missing: {section.name} needs it")
        for name in named
        if parameters[name].default is inspect.Parameter.empty and name not in given
    ]
    if problems:
        raise ConfigError(problems)
    return fitting
