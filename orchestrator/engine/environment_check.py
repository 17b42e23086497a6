"""In what environment a sweep runs, and how it differs from the one it was started in."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.config import FIRST, difference
from orchestrator.provenance import Code, code_of, code_of_file, first_packages, packages
from orchestrator.source_files import loaded_now, own_files, own_packages, program_files
from orchestrator.spec import SweepSpec

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger, TrialHistory

log = logging.getLogger(__name__)

COMPARED = {
    "code": "the training code",
    "loaded": "code imported by a computed name",
    "own_code": "the code of your networks, data and metrics",
    "torch": "torch",
    "packages": "the installed packages",
    "device": "the device type",
    "data": "the data",
    "fingerprint": "the data's fingerprint",
}
"""What a result may depend on, in words."""


def environment(spec: SweepSpec, *, device: str | None = None, fingerprint: str | None = None) -> dict[str, Any]:
    """Return what results may depend on besides the configuration.

    Args:
        spec: the sweep.
        device: type of the device that trains ("cpu", a GPU's name), if known.
        fingerprint: of the training data, if somebody has read it.
    """
    return {
        "code": _training_code(spec),
        "commit": own_code(spec).name,
        "own_code": " ".join(code_version(package) for package in own_packages(spec.named_code)) or None,
        "torch": _version("torch"),
        "packages": hashlib.sha256(packages().encode()).hexdigest()[:16],
        "device": device,
        "data": described_data(spec),
        "fingerprint": fingerprint,
        "python": platform.python_version(),
        "meansweep": _version("meansweep"),
    }


def drift(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each thing that differs; what either side does not know is not compared."""
    lines = []
    for key, name in COMPARED.items():
        old, new = then.get(key), now.get(key)
        if old is not None and new is not None and old != new:
            lines.append(f"{name}: {old} -> {new}")
    return lines


def drift_of(ledger: Ledger, now: Mapping[str, Any]) -> list[str]:
    """Return what differs from the environment that a sweep was started in, the packages by their names."""
    then = ledger.environment()
    module = ledger.spec().trainer.partition(":")[0]
    loaded = {"loaded": loaded_now(then["loaded"], module)} if then.get("loaded") and now else {}
    lines = drift(then, {**now, **loaded})
    before, here = _versions(first_packages(ledger.paths.code)), _versions(packages())
    changed = [
        f"{name} {before[name]} -> {here.get(name, 'gone')}" for name in before if here.get(name) != before[name]
    ]
    new = [f"{name} {version}" for name, version in here.items() if name not in before]
    said = ", ".join([*changed, *(f"{line} is new" for line in new)][:5]) + (" ..." if len(changed + new) > 5 else "")
    prefix = f"{COMPARED['packages']}: "
    return [f"{prefix}{said}" if line.startswith(prefix) and before and said else line for line in lines]


def _versions(text: str) -> dict[str, str]:
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line)


def learn(ledger: Ledger, history: TrialHistory, facts: Mapping[str, str]) -> list[str]:
    """Take in what only a worker could find out about the environment, and label its trial with what differs.

    The sweep's first worker says what the others are compared with.

    Args:
        ledger: the sweep's ledger, open for writing.
        history: the worker's trial.
        facts: any of `device` and `fingerprint`. Where the data is varied, its fingerprint says nothing.

    Returns:
        What differs and was not known yet of this trial, one line each.
    """
    swept = any(name.startswith("data.") for name in ledger.spec().space.names)
    told = {key: value for key, value in facts.items() if value and not (swept and key == "fingerprint")}
    then = ledger.environment()
    fresh = {key: value for key, value in told.items() if not then.get(key)}
    if fresh:
        ledger.set_environment({**then, **fresh})
    known = history.labels.get("drift", [])
    found = [line for line in drift(then, told) if line not in known]
    if found:
        ledger.label(history.id, "drift", [*known, *found])
        log.warning("trial %s differs from the sweep's first ones: %s", history.id, "; ".join(found))
    return found


PATHS = ("path", "vae", "features", "reference")
"""Keys whose values are paths, even where they have no "/" in them."""


def described_data(spec: SweepSpec) -> str:
    """Return a hash of the configuration's `data` section and of the sizes of the files that it names.

    It is known before any data is read, so that equal configurations of other sweeps can be found at once. Of the
    MeanFlow trainer it covers what differs from the defaults, so that a new key does not alter it.
    """
    if not spec.builtin_trainer:
        return _described_in_full(spec)
    data, evaluation = spec.base_config.data, spec.base_config.evaluation
    sizes = {key: size for section in (data, evaluation) for key, size in _sizes(asdict(section)).items() if size}
    content = {"name": data.name, **difference(data, "data."), "sizes": sizes}
    return f"{FIRST}-{_digest(content)}"


def recorded(ledger: Ledger) -> dict[str, Any]:
    """Return the environment that a sweep was started in.

    Earlier releases described the data by all keys of its section; where that still fits, it is the same data.
    """
    then = ledger.environment()
    if then.get("data") and ledger.spec(0).builtin_trainer and then["data"] == _described_in_full(ledger.spec(0)):
        return {**then, "data": described_data(ledger.spec(0))}
    return then


def _described_in_full(spec: SweepSpec) -> str:
    data, evaluation = _sizes(spec.base.get("data")), _sizes(spec.base.get("evaluation"))
    sizes = [*data.values(), *(size for size in evaluation.values() if size is not None)]
    return _digest([spec.base.get("data"), sizes])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _sizes(section: Any) -> dict[str, int | None]:
    """Return the sizes of what a section names, by key: values with a "/" in them, and paths by their keys."""
    named = section.items() if isinstance(section, Mapping) else ()
    paths = {key: value for key, value in named if isinstance(value, str) and ("/" in value or key in PATHS)}
    return {key: _size(Path(path.removeprefix("inception:")).expanduser()) for key, path in paths.items()}


def _size(path: Path) -> int | None:
    """Bytes of a file, number of entries of a folder."""
    if path.is_dir():
        return sum(1 for _ in path.iterdir())
    return path.stat().st_size if path.is_file() else None


def code_version(trainer: str) -> str:
    """Return a hash of the source that trains: the trainer's whole package, or its module, and all that it imports.

    What installed packages hold is left out: their versions are compared. Nothing is imported.
    """
    files = own_files(trainer.partition(":")[0])
    return _hash_of(files) if files else "unknown"


def _training_code(spec: SweepSpec) -> str | None:
    """The same for a sweep; of an own program its files and those of Python that it imports from beside it.

    None where its command names no file of its own: then nobody can tell whether it is the same as before.
    """
    if spec.program is None:
        return code_version(spec.trainer)
    folder = spec.program.place()
    files = program_files(spec.program.scripts(folder), folder)
    return _hash_of(files) if files else None


def _hash_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def own_code(spec: SweepSpec) -> Code:
    """Return the commit and the changes of the repository that a sweep's trainer, or own program, is in."""
    if spec.program is None:
        return code_of(package_of(spec.trainer))
    scripts = spec.program.scripts(spec.program.place())
    return code_of_file(scripts[0]) if scripts else Code()


def package_of(trainer: str) -> str:
    """Return the top-level package, or the module, of a trainer `package.module:Class`."""
    return trainer.partition(":")[0].partition(".")[0]


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
