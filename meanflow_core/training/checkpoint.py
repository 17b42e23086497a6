"""Checkpoints on disk: a folder with safetensors and JSON, written aside and renamed, read without running any code.

    folder/state.json            every plain value, where each tensor stands, and the checksums of both files
    folder/tensors.safetensors   the tensors, if there are any

A state without tensors needs no torch, neither to save nor to load.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
STATE, TENSORS = "state.json", "tensors.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another kind; the message names the file."""


@dataclass(frozen=True)
class Snapshot:
    """A state as it is written: what it was made from may change."""

    plain: Any
    """JSON-able; the places of tensors in it are keys of `tensors`."""
    tensors: dict[str, Any]
    """Copies on the CPU."""


def take_snapshot(state: Mapping[Any, Any]) -> Snapshot:
    """Copy a state to the CPU's memory.

    Args:
        state: nested dicts, lists and tuples of tensors, numbers, text, booleans and None.

    Raises:
        TypeError: a value is none of these; the message says where it stands.
    """
    tensors: dict[str, Any] = {}
    return Snapshot(_encode(state, "", tensors), tensors)


def save_checkpoint(folder: Path | str, state: Mapping[Any, Any] | Snapshot) -> None:
    """Write `state` to `folder`, replacing what is there; a crash leaves the old checkpoint or the new one.

    Args:
        folder: of this checkpoint alone.
        state: what `take_snapshot` takes, or has taken; it comes back equal.

    Raises:
        TypeError: see `take_snapshot`.
        OSError: writing failed, e.g. the disk is full. What was there before is still there.
    """
    folder = Path(folder)
    taken = state if isinstance(state, Snapshot) else take_snapshot(state)
    plain, tensors = taken.plain, taken.tensors
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside, old = folder.with_name(f".{folder.name}.{os.getpid()}.tmp"), _old(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        checksum = None
        if tensors:
            from safetensors.torch import save_file  # imports torch

            save_file(tensors, aside / TENSORS)
            checksum = _checksum(aside / TENSORS)
            _flush(aside / TENSORS)
        body = json.dumps(plain, separators=(",", ":"))
        head = {"format": FORMAT, "tensors": checksum, "state": zlib.crc32(body.encode())}
        (aside / STATE).write_text(f"{json.dumps(head)}\n{body}\n", encoding="utf-8")
        _flush(aside / STATE)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)  # a crash after this line: loading finds the old one under its other name
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path | str) -> dict[str, Any]:
    """Read the state that `save_checkpoint` wrote; tensors are on the CPU.

    Raises:
        CheckpointError: it is missing or damaged; the message names the file.
    """
    folder = Path(folder)
    if not folder.exists() and _old(folder).exists():
        folder = _old(folder)
    file = folder / STATE
    try:
        head_line, _, body = file.read_text(encoding="utf-8").partition("\n")
        head = json.loads(head_line)
        found, wanted, expected = head["format"], head["tensors"], head["state"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: no checkpoint here ({STATE} is missing)") from error
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error
    if found != FORMAT:
        raise CheckpointError(f"{file}: has format {found}; this version reads format {FORMAT}")
    body = body.removesuffix("\n")
    if zlib.crc32(body.encode()) != expected:
        raise CheckpointError(f"{file}: damaged: the checksum differs")
    tensors: dict[str, Any] = {}
    if wanted is not None:
        tensors = _load_tensors(folder / TENSORS, wanted)
    state = _decode(json.loads(body), tensors)
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: does not hold a mapping")
    return state


def is_checkpoint(folder: Path | str) -> bool:
    """Whether a checkpoint stands there (it may still turn out to be damaged)."""
    folder = Path(folder)
    return (folder / STATE).exists() or (_old(folder) / STATE).exists()


def save_weights(path: Path | str, weights: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write the weights of a network alone, with what is needed to rebuild it in the file's metadata.

    Args:
        path: of the safetensors file, written aside and renamed.
        weights: a state dict; the prefixes of wrappers (`module.`, `_orig_mod.`) are taken off.
        metadata: JSON-able values by name.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: _plain(tensor) for name, tensor in bare_names(weights).items()}
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, aside, metadata={key: json.dumps(value) for key, value in metadata.items()})
    _flush(aside)
    aside.replace(path)


def load_weights(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file of `save_weights`.

    Returns:
        The weights, on the CPU, and the metadata.

    Raises:
        CheckpointError: it is missing, damaged, or no such file; the message names it.
    """
    with _opened(Path(path)) as (file, metadata):
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return bare_names(weights), metadata


def load_metadata(path: Path | str) -> dict[str, Any]:
    """Read what `load_weights` reads beside the weights, and not them."""
    with _opened(Path(path)) as (_, metadata):
        return metadata


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).items()
            yield file, {key: json.loads(value) for key, value in told if key != "format"}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or no safetensors file: {error}") from error


def bare_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Take the prefixes that DDP and torch.compile put before names off."""
    return {".".join(p for p in name.split(".") if p not in ("module", "_orig_mod")): t for name, t in weights.items()}


def _encode(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    """Turn `value` into JSON, moving its tensors to `tensors`. What JSON does not know becomes `{"__kind__": ...}`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        items = [(key, _encode(item, f"{place}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) for key, _ in items) and not any(key.startswith("__") for key, _ in items):
            return dict(items)
        return {"__dict__": [[_encode(key, place, tensors), item] for key, item in items]}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{place}/{index}", tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"__tuple__": items}
    torch = sys.modules.get("torch")  # a state that holds a tensor has imported torch; any other must not
    if torch is not None and isinstance(value, torch.Tensor):
        tensors[place] = _plain(value)
        return {"__tensor__": place}
    raise TypeError(f"cannot save {place or 'the state'}: a {type(value).__name__} is neither a tensor nor plain data")


def _plain(tensor: Any) -> Any:
    """A contiguous copy on the CPU: safetensors refuses tensors that share memory, and training goes on meanwhile."""
    tensor = tensor.detach()
    return tensor.contiguous().clone() if tensor.device.type == "cpu" else tensor.cpu().contiguous()


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"__tensor__": place}:
            return tensors[place]
        case {"__tuple__": items}:
            return tuple(_decode(item, tensors) for item in items)
        case {"__dict__": items}:
            return {_decode(key, tensors): _decode(item, tensors) for key, item in items}
    return {key: _decode(item, tensors) for key, item in value.items()}


def _load_tensors(file: Path, wanted: int) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if _checksum(file) != wanted:
            raise CheckpointError(f"{file}: damaged: the checksum differs")
        return load_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: damaged: the file is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _flush(path: Path) -> None:
    """Bring a file or folder to the disk, so that the rename never arrives before the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
