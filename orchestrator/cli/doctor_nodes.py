"""What the nodes of a cluster are like, each asked on the spot, and whether they fit together."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from orchestrator.formatting import join
from orchestrator.provenance import c_compiler

PACKAGES = ("ray", "torch", "optuna", "numpy", "safetensors")
"""Whose versions must be the same on every node; ray's must be so to the last digit."""
ENOUGH_GIB = 5.0
_STORAGE = {"home": "storage", "checkpoints": "checkpoint storage"}
_SHARE = {
    "home": "put $MEANSWEEP_HOME on a disk that all nodes mount under the same path (NFS, Lustre, FSx, EFS)",
    "checkpoints": "let $MEANSWEEP_STORAGE name a store that all nodes reach, e.g. s3://BUCKET/PREFIX",
}
_OPEN = {
    "home": "give the user that Ray runs as the right to write there",
    "checkpoints": "install what fsspec needs for this URL on every node (s3fs, gcsfs, adlfs), and give the nodes the "
    "right to write there",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    what_to_do: str = ""
    """Empty where all is well."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return asdict(self)


def this_node(places: Mapping[str, str] | None = None, marker: str = "") -> dict[str, Any]:
    """Return what this node is like: versions, GPUs, and whether it sees and can write the storage.

    Args:
        places: folders or fsspec URLs that all nodes must share, by what they are for; None: only look at the node.
        marker: name of a file that another node has left in each.
    """
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "missing"
    facts: dict[str, Any] = {"versions": versions, "gpus": gpus_of_torch(), "nvidia": gpus_of_driver()}
    facts["compiler"] = c_compiler()
    if places is not None:
        facts["storage"] = {name: {"place": place, **touch(place, marker)} for name, place in places.items()}
        facts["free_gib"] = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    return facts


def gpus_of_torch() -> int:
    """Return how many GPUs torch sees here, asked in a process that Ray has hidden none from."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    program = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else 0


def gpus_of_driver() -> int:
    """Return how many GPUs NVIDIA's driver lists here."""
    if shutil.which("nvidia-smi") is None:
        return 0
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def touch(place: str, marker: str) -> dict[str, Any]:
    """Return whether a place (a folder or an fsspec URL) can be written, and whether another node's marker is there."""
    seen, error = False, ""
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(place)
        own = f"{path}/{marker}.{uuid.uuid4().hex}"
        seen = files.exists(f"{path}/{marker}")
        files.pipe_file(own, b"here")
        files.rm_file(own)
    except Exception as failure:  # every store raises its own kind, and a missing one an ImportError
        error = re.sub(rf"/{re.escape(marker)}[.\w]*", "", f"{type(failure).__name__}: {first_line(failure)}")
    return {"seen": seen, "writable": not error, "error": error}


@contextlib.contextmanager
def marked(place: str, marker: str) -> Iterator[None]:
    """Leave a file in a place for other nodes to see; where that cannot be done, `touch` says why."""
    files, path = None, ""
    with contextlib.suppress(Exception):
        from fsspec.core import url_to_fs

        files, path = url_to_fs(place)
        files.makedirs(path, exist_ok=True)
        files.pipe_file(f"{path}/{marker}", b"here")
    try:
        yield
    finally:
        if files is not None:
            with contextlib.suppress(Exception):
                files.rm_file(f"{path}/{marker}")


def judge_nodes(facts: Mapping[str, Mapping[str, Any]], here: Mapping[str, Any]) -> list[Check]:
    """Judge what the nodes have said. A pure function, so that every finding can be tested.

    Args:
        facts: by node, what `this_node` returned there, with the GPUs that Ray counts (`ray_gpus`).
        here: of the driver's own node.
    """
    return [
        *_judge_versions(facts, here),
        *_judge_gpus(facts),
        *_judge_compiler(facts),
        *_judge_storage(facts),
        *_judge_space(facts),
    ]


def _judge_versions(facts: Mapping[str, Mapping[str, Any]], here: Mapping[str, Any]) -> Iterator[Check]:
    differing = [
        f"{label}: {package} {version} (here {here['versions'].get(package)})"
        for label, fact in facts.items()
        for package, version in fact["versions"].items()
        if version != here["versions"].get(package)
    ]
    yield Check(
        name="versions",
        ok=not differing,
        detail="; ".join(differing) or f"alike on {len(facts)} node(s)",
        what_to_do="install from the same constraints.txt everywhere, preferably as one container image"
        if differing
        else "",
    )


def _judge_gpus(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    wrong, todo = [], ""
    for label, fact in facts.items():
        torch, driver, counted = fact["gpus"], fact["nvidia"], fact["ray_gpus"]
        if max(driver, counted) > torch:
            wrong.append(f"{label}: {max(driver, counted)} GPU(s) there, torch sees {torch}")
            todo = "install the CUDA build of torch that fits the driver (`nvidia-smi` shows its version)"
        elif torch > counted:
            wrong.append(f"{label}: torch sees {torch} GPU(s), Ray counts {counted}")
            todo = todo or f"start Ray there with --num-gpus={torch}"
    total = sum(fact["gpus"] for fact in facts.values())
    detail = "; ".join(wrong) or (
        f"{total} GPU(s), seen by torch and by Ray" if total else "no GPU: trials run on CPUs"
    )
    yield Check(name="GPUs", ok=not wrong, detail=detail, what_to_do=todo)


def _judge_compiler(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    """Judge what `trainer.compile` needs: on a GPU, where it is usual, its absence would end every trial."""
    without = [label for label, fact in facts.items() if fact["compiler"] is None]
    bad = [label for label in without if facts[label]["gpus"]]
    yield Check(
        name="compiler",
        ok=not bad,
        detail=f"no C compiler on {join(without)}: `trainer.compile` fails there" if without else "a C compiler",
        what_to_do="install gcc in the image (deploy/Dockerfile does), or set CC" if bad else "",
    )


def _judge_storage(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    for name in next(iter(facts.values()))["storage"] if facts else ():
        found = {label: fact["storage"][name] for label, fact in facts.items()}
        place = next(iter(found.values()))["place"]
        closed = {label: entry["error"] for label, entry in found.items() if not entry["writable"]}
        blind = [label for label, entry in found.items() if not entry["seen"]]
        detail, todo = f"{place}: writable, and the same on {len(facts)} node(s)", ""
        if blind and len(closed) < len(facts):
            detail = f"{place} is a different folder on {', '.join(blind)}"
            todo = _SHARE[name]
        elif closed:
            said: dict[str, list[str]] = {}  # mostly all nodes say the same
            for label, error in closed.items():
                said.setdefault(error, []).append(label)
            detail = f"{place}: " + "; ".join(f"{', '.join(labels)}: {error}" for error, labels in said.items())
            todo = _OPEN[name]
        yield Check(name=_STORAGE[name], ok=not (blind or closed), detail=detail, what_to_do=todo)


def _judge_space(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    full = [f"{label}: {fact['free_gib']:.1f} GiB" for label, fact in facts.items() if fact["free_gib"] < ENOUGH_GIB]
    yield Check(
        name="temporary space",
        ok=not full,
        detail="; ".join(full) or f"at least {ENOUGH_GIB:g} GiB on every node",
        what_to_do="free some: Ray keeps its object store's overflow there" if full else "",
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error that says something."""
    return next((line for line in str(error).strip().splitlines() if line.strip()), "no message")
