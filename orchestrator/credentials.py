"""Passwords and keys: read from a file that only its owner can read, and never written down by this program.

A job's environment, its metadata and its packages are logged and unpacked in clear text on every node of a cluster.
So none of them carries a secret: the driver reads `HOME/credentials` where it runs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from meanflow_core.errors import ConfigError, Problem
from orchestrator.paths import Home

SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables that are not sent to a cluster."""
STORE_KEYS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION", "GOOGLE_APPLICATION_CREDENTIALS"),
)
"""Variables by which a worker reaches a store of checkpoints, besides those of `HOME/credentials`."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
# A password may hold an unquoted `@`, and for SQLAlchemy a `/`: whatever stands before the last `@` is taken for it.
_USER = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<who>[^/@\s:]*:[^\s\"'<>]*|[^/\s]*)@")
_SECRET_IN_QUERY = re.compile(
    r"(?<=[?&;])(?:[\w.-]*(?:pass|pwd|secret|token|credential|signature|(?<!ssl)key)[\w.-]*|sig|auth)=[^&;#\s\"'<>]*[&;]?",
    re.I,
)
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")
"""Of Azure: what stands before their `@` is no user but the container."""


def load_credentials(home: Home) -> None:
    """Put what `HOME/credentials` says into this process's environment; what is set there already stays.

    One `NAME=value` a line; `#` begins a comment line.

    Raises:
        ConfigError: others can read the file, or a line is none of these.
    """
    for name, value in _read(home).items():
        os.environ.setdefault(name, value)


def for_workers(home: Home) -> dict[str, str]:
    """Return the variables that trials get with their work, which Ray does not log: keys of a store, mostly.

    They are `STORE_KEYS` and all that `HOME/credentials` names besides `SECRETS`: a trial does not speak to MLflow.

    Raises:
        ConfigError: see `load_credentials`.
    """
    names = [*STORE_KEYS, *(name for name in _read(home) if name not in SECRETS)]
    return {name: os.environ[name] for name in names if name in os.environ}


def _read(home: Home) -> dict[str, str]:
    file, found = home.credentials, dict[str, str]()
    if not file.is_file():
        return found
    if file.stat().st_mode & 0o077:
        rule = "holds passwords and can be read by others; `chmod 600` it"
        raise ConfigError([Problem(key="credentials", value=str(file), rule=rule)])
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        name, sign, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not sign or not _NAME.fullmatch(name):
            rule = "must be lines NAME=value, of environment variables"
            raise ConfigError([Problem(key="credentials", rule=rule, file=str(file), line=number)])
        found.setdefault(name, value)
    return found


def without_password(text: str) -> str:
    """Return a text with users, passwords, keys and tokens cut out of every address in it."""
    said, cut = _SECRET_IN_QUERY.subn("", _USER.sub(_without_user, text))
    return re.sub(r"[?&;]+(?=[\s\"'<>#]|$)", "", said) if cut else said


def _without_user(found: re.Match[str]) -> str:
    container = found["scheme"].lower() in _CONTAINER_SCHEMES and ":" not in found["who"]
    return found[0] if container else f"{found['scheme']}://"


def left_behind(home: str) -> list[str]:
    """Return, in lines, which secrets of this environment are not sent to a cluster and where they belong there.

    Args:
        home: folder of all state on the cluster.
    """
    kept = [name for name in SECRETS if os.environ.get(name)]
    for name in ("MLFLOW_TRACKING_URI", "MEANSWEEP_STORAGE"):
        if os.environ.get(name, "") != without_password(os.environ.get(name, "")):
            kept.append(f"the user or key in {name}")
    if not kept:
        return []
    file = Path(home) / "credentials"
    return [f"{', '.join(kept)} is not sent (Ray logs what it is given): the driver reads {file} there (mode 600)"]
