"""Make a folder of latents from a folder of images: `python -m meanflow_core.data.encode_latents IMAGES OUT --vae VAE`.

Each image becomes a row of mean and standard deviation of its latent (and, with --flip, one more for its mirror image).
Shards are written one after the other, the index last; called again after an interruption, the command goes on with
the shards that are missing. On all GPUs of a node: `torchrun --nproc-per-node 8 -m meanflow_core.data.encode_latents
...`; process k of n then makes the shards k, k + n, ...
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meanflow_core.config import ImageFolderConfig
from meanflow_core.data.availability import LATENTS_INDEX as INDEX
from meanflow_core.data.files import write_aside
from meanflow_core.data.image_folder import ImageFolder
from meanflow_core.data.latents import VERSION, read_index
from meanflow_core.data.vae import Vae, load_vae
from meanflow_core.distributed import World, choose_device, launched
from meanflow_core.errors import ConfigError, Problem

PLAN = "plan.json"

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def encode_latents(
    images: ImageFolder,
    out: Path,
    vae: Vae,
    *,
    vae_name: str,
    flip: bool = False,
    batch_size: int = 32,
    shard_images: int = 4096,
    world: World | None = None,
) -> dict[str, Any]:
    """Write all images' latents below `out`, and return the index.

    Args:
        images: read in their order, without random flips.
        out: folder; one that holds part of the same work is completed.
        vae: the autoencoder.
        vae_name: for the record.
        flip: add each image's mirror image as a row of its own.
        batch_size: images the autoencoder takes at once.
        shard_images: images per shard.
        world: the processes that share the work, each of which calls this; None: this one alone.

    Raises:
        ConfigError: `out` holds the latents of something else.
    """
    plan = {
        "images": images.fingerprint,
        "count": len(images),
        "size": images.shape[-1],
        "flip": flip,
        "vae": vae_name,
        "shard_images": shard_images,
    }
    world = world or World()
    if world.first:
        _claim(out, plan)
    starts = range(0, len(images), shard_images)
    for number in range(world.rank, len(starts), world.size):
        names, start = _names(images, number), starts[number]
        if not all((out / name).is_file() for name in names.values()):
            rows = range(start, min(start + shard_images, len(images)))
            arrays = _encode(images, rows, vae, flip=flip, batch_size=batch_size)
            for kind, name in names.items():
                write_aside(out / name, functools.partial(np.save, arr=arrays[kind]))
        print(f"{out}: shard {number + 1} of {len(starts)}", flush=True)
    world.wait()
    if world.first:
        index = _index(images, out, plan, len(starts))
        write_aside(out / INDEX, lambda file: file.write(json.dumps(index, indent=1).encode()))
    world.wait()
    return read_index(out)


def _names(images: ImageFolder, number: int) -> dict[str, str]:
    kinds = ("mean", "std", "labels") if images.num_classes is not None else ("mean", "std")
    return {kind: f"{kind}-{number:05d}.npy" for kind in kinds}


def _index(images: ImageFolder, out: Path, plan: dict[str, Any], count: int) -> dict[str, Any]:
    shards = []
    for names in (_names(images, number) for number in range(count)):
        shape = np.load(out / names["mean"], mmap_mode="r").shape
        digests = {kind: _sha256(out / name) for kind, name in names.items()}
        shards.append({"rows": shape[0], **names, "sha256": digests})
    return {"version": VERSION, "shape": shape[1:], "num_classes": images.num_classes, "made": plan, "shards": shards}


def _claim(out: Path, plan: dict[str, Any]) -> None:
    path = out / PLAN
    if path.is_file():
        if json.loads(path.read_text()) != plan:
            rule = f"holds latents made otherwise (see {path.name} in it); choose another folder"
            raise ConfigError([Problem(key="OUT", value=str(out), rule=rule)])
        return
    write_aside(path, lambda file: file.write(json.dumps(plan, indent=1).encode()))


def _encode(images: ImageFolder, rows: range, vae: Vae, *, flip: bool, batch_size: int) -> Arrays:
    generator = torch.Generator()
    parts: dict[str, list[torch.Tensor]] = {"mean": [], "std": [], "labels": []}
    for start in range(rows.start, rows.stop, batch_size):
        indices = torch.arange(start, min(start + batch_size, rows.stop))
        x, labels = images.batch(indices, generator=generator)
        for seen in (x, x.flip(-1)) if flip else (x,):
            mean, std = vae.encode(seen)
            parts["mean"].append(mean.float())
            parts["std"].append(std.float())
            if labels is not None:
                parts["labels"].append(labels)
    return {kind: torch.cat(part).numpy() for kind, part in parts.items() if part}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m meanflow_core.data.encode_latents", description=__doc__)
    parser.add_argument("images", metavar="IMAGES", help="folder of images, one sub-folder per class")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the latents")
    parser.add_argument("--vae", required=True, help="folder of a diffusers AutoencoderKL, e.g. sd-vae-ft-mse")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images (default: 256)")
    parser.add_argument("--flip", action="store_true", help="add each image's mirror image")
    parser.add_argument("--batch-size", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--shard-images", type=int, default=4096, help="images per shard (default: 4096)")
    options = parser.parse_args(arguments)
    choose_device("auto")
    try:
        images = ImageFolder(ImageFolderConfig(path=options.images, size=options.size, flip=False))
        with launched("cpu") as world:  # between the processes pass no tensors, they wait for one another
            index = encode_latents(
                images,
                options.out,
                load_vae(options.vae, key="--vae"),
                vae_name=Path(options.vae).name,
                flip=options.flip,
                batch_size=options.batch_size,
                shard_images=options.shard_images,
                world=world,
            )
    except (ConfigError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    if world.first:
        print(f"{options.out}: {sum(shard['rows'] for shard in index['shards'])} rows of {tuple(index['shape'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
