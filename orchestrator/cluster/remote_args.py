"""The words of commands that run on a cluster: which can, what is said in them, and commands in what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from meanflow_core.errors import ConfigError, Problem

REMOTE = (
    *("status", "logs", "stop", "pause", "resume", "extend", "edit", "retry", "trial"),
    *("leaderboard", "compare", "importance", "export", "report", "sync", "best", "train", "sample"),
    *("list", "remove", "prune"),
)
"""Commands that `--address` runs on the cluster, where the sweep's folder is."""
HELP = "On a Ray cluster: --address http://HEAD:8265 [--remote-home FOLDER], see docs/cluster.md."
"""Ends the help of each of them."""
VALUED = (
    *("-n", "-o", "--out", "--csv", "--home", "--name", "--sweep", "--trial", "--workers", "--gpus", "--top"),
    *("--nfe", "--labels", "--seed", "--guidance", "--conditions", "--keep", "--older-than"),
)
"""Options that are followed by a value."""
_OPTIONS = {
    "--address": "the cluster's URL, e.g. http://127.0.0.1:8265",
    "--remote-home": "a folder that all nodes share",
}
# A command ends where a code span, a comment, the next command or the line does.
_COMMAND = re.compile(rf"\bmeansweep (?:{'|'.join(REMOTE)})(?![\w-])(?: [^\s`;&|#]+)*")


def remote_address(words: Sequence[str]) -> tuple[str | None, str | None, list[str]]:
    """Take `--address URL` and `--remote-home FOLDER` out of a command line that is to run on a cluster.

    Returns:
        The address, None for a command that runs here; the home there; and the words without both.

    Raises:
        ConfigError: one of the two has no value.
    """
    rest = list(words)
    if not rest or rest[0] not in REMOTE:
        return None, None, rest
    address, without = _take(rest, "--address")
    if address is None or (rest[0] == "train" and not address.startswith("http")):
        return None, None, rest  # none, or the address of Ray itself
    home, without = _take(without, "--remote-home")
    return address, home, without


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """Return an option's value and the words without both."""
    for index, word in enumerate(words):
        if word == option:
            if index + 1 == len(words):
                raise ConfigError([Problem(key=option, rule=f"needs {_OPTIONS[option]}")])
            return words[index + 1], words[:index] + words[index + 2 :]
        if word.startswith(f"{option}="):
            return word.partition("=")[2], words[:index] + words[index + 1 :]
    return None, words


def positional(words: Sequence[str]) -> list[str]:
    """Return the words that are neither options nor values of options."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("-") and before not in VALUED
    ]


def value_of(words: Sequence[str], option: str) -> str | None:
    """Return the value of an option, None where it is not given."""
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{option}=") and option.startswith("--"):
            return word.partition("=")[2]
    return None


def from_here(text: str, address: str, home: str | None = None) -> str:
    """Return what a cluster has said with its commands made such that they reach the cluster from here.

    Args:
        text: `` `meansweep resume digits` goes on with it ``.
        address: of the cluster.
        home: folder of all state there, if it must be named.
    """
    where = f" --address {address}" + (f" --remote-home {home}" if home else "")
    return _COMMAND.sub(lambda found: found[0] + ("" if "--address" in found[0] else where), text)
