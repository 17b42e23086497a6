"""In what environment a sweep runs, and how it differs from the one it was started in."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.spec import SweepSpec

COMPARED = {
    "code": "the training code",
    "torch": "torch",
    "device": "the device type",
    "data": "the data",
}
"""What a result may depend on, in words."""


def environment(spec: SweepSpec, *, device: str | None = None, data: str | None = None) -> dict[str, Any]:
    """Return what results may depend on besides the configuration.

    Args:
        spec: the sweep.
        device: type of the device that trains ("cpu", a GPU's name), if known.
        data: fingerprint of the training data, if known; else that of its description in the base configuration.
    """
    described = json.dumps(spec.base.get("data"), sort_keys=True, default=str).encode()
    return {
        "code": code_version(spec.trainer),
        "torch": _version("torch"),
        "device": device,
        "data": data or f"described:{hashlib.sha256(described).hexdigest()[:16]}",
        "python": platform.python_version(),
        "meansweep": _version("meansweep"),
    }


def drift(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each thing that differs; what either side does not know is not compared."""
    lines = []
    for key, name in COMPARED.items():
        old, new = then.get(key), now.get(key)
        comparable = old is not None and new is not None and str(old).partition(":")[1] == str(new).partition(":")[1]
        if comparable and old != new:
            lines.append(f"{name}: {old} -> {new}")
    return lines


def code_version(trainer: str) -> str:
    """Return a hash of the source that trains: the trainer's whole package, or its module if it stands alone.

    Nothing is imported.
    """
    package = trainer.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None:
        return "unknown"
    if spec.submodule_search_locations:
        roots = [Path(place) for place in spec.submodule_search_locations]
        files = sorted(file for root in roots for file in root.rglob("*.py"))
    else:
        files = [Path(spec.origin)] if spec.origin else []
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
