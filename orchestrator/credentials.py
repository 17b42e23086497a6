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
"""Variables by which a worker reaches a store of checkpoints; given to it with its work, which is not logged."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


def load_credentials(home: Home) -> None:
    """Put what `HOME/credentials` says into this process's environment; what is set there already stays.

    One `NAME=value` a line; `#` begins a comment line.

    Raises:
        ConfigError: others can read the file, or a line is none of these.
    """
    file = home.credentials
    if not file.is_file():
        return
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
        os.environ.setdefault(name, value)


def without_password(text: str) -> str:
    """Return a text with the user and password cut out of every address in it."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def left_behind(home: str) -> list[str]:
    """Return, in lines, which secrets of this environment are not sent to a cluster and where they belong there.

    Args:
        home: folder of all state on the cluster.
    """
    kept = [name for name in SECRETS if os.environ.get(name)]
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri != without_password(uri):
        kept.append("the user in MLFLOW_TRACKING_URI")
    if not kept:
        return []
    file = Path(home) / "credentials"
    return [f"{', '.join(kept)} is not sent (Ray logs what it is given): the driver reads {file} there (mode 600)"]
