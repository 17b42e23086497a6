"""Rows a second that each data set yields, against the rows a second that the fastest known training step takes.

    python benchmarks/data_loading.py [--seconds 3] [--json OUT]

The files are random but of the real formats and sizes a row, made in a temporary folder. What a step takes: the
published figures of the two set-ups (batch 256 in 0.052 s for DiT-B/4, batch 1024 in 0.21 s for the U-Net on eight
GPUs), and for the digits a flow-matching step of a small DiT, measured here. On a GPU one batch is read ahead while
the step runs, so a ratio above 1 means that training never waits. Images are decoded by as many threads as there are
cores (at most 16); decoded ones are kept while all fit into 1 GiB, which the last line shows.
"""

import argparse
import json
import os
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from meanflow_core.config import (
    Cifar10Config,
    DigitsConfig,
    DiTConfig,
    ImageFolderConfig,
    LatentsConfig,
    Toy2dConfig,
)
from meanflow_core.data.base import Dataset
from meanflow_core.data.build import build_dataset
from meanflow_core.data.cifar10 import TEST, TRAIN
from meanflow_core.data.order import IndexStream
from meanflow_core.nets.build import build_net

BATCH = 256
IMAGENET_STEP = 256 / 0.052
CIFAR_STEP = 1024 / 0.21


def cifar_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in TRAIN + TEST:
        content = {b"data": rng.integers(0, 256, (10_000, 3072), dtype=np.uint8), b"labels": [1] * 10_000}
        (folder / name).write_bytes(pickle.dumps(content))


def image_files(folder: Path, size: int = 256, count: int = 512) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
        small.resize((size * 5 // 4, size), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


def latent_files(folder: Path, shards: int = 4, rows: int = 4096) -> None:
    rng = np.random.default_rng(0)
    entries = []
    for number in range(shards):
        names = {kind: f"{kind}-{number:05d}.npy" for kind in ("mean", "std", "labels")}
        for kind in ("mean", "std"):
            np.save(folder / names[kind], rng.standard_normal((rows, 4, 32, 32), dtype=np.float32))
        np.save(folder / names["labels"], rng.integers(0, 1000, rows))
        entries.append({"rows": rows, **names})
    index = {"version": 1, "shape": [4, 32, 32], "num_classes": 1000, "shards": entries}
    (folder / "index.json").write_text(json.dumps(index))


def rows_per_second(data: Dataset, seconds: float) -> float:
    stream, generator = IndexStream(len(data), 0), torch.Generator().manual_seed(0)
    data.batch(stream.take(BATCH), generator=generator)
    rows, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        data.batch(stream.take(BATCH), generator=generator)
        rows += BATCH
    return rows / (time.perf_counter() - start)


def digits_step(seconds: float) -> float:
    """Rows a second of a flow-matching step of a small DiT on one thread."""
    net = build_net(DiTConfig(width=64, depth=4, heads=4, patch=2), (1, 8, 8), 10)
    optimizer = torch.optim.Adam(net.parameters())
    z, t, labels = torch.randn(BATCH, 1, 8, 8), torch.rand(BATCH), torch.randint(10, (BATCH,))
    rows, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        optimizer.zero_grad()
        net(z, t, t, labels).square().mean().backward()
        optimizer.step()
        rows += BATCH
    return rows / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure each for")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = digits_step(options.seconds)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folders = {kind: Path(name) / kind for kind in ("cifar10", "images", "latents")}
        for folder in folders.values():
            folder.mkdir()
        cifar_files(folders["cifar10"])
        image_files(folders["images"])
        latent_files(folders["latents"])
        cases = [
            ("digits", DigitsConfig(), small),
            ("toy2d", Toy2dConfig(), small),
            ("cifar10", Cifar10Config(path=str(folders["cifar10"])), CIFAR_STEP),
            ("latents", LatentsConfig(path=str(folders["latents"])), IMAGENET_STEP),
            ("images 256, decoded", ImageFolderConfig(path=str(folders["images"]), size=256), IMAGENET_STEP),
            ("images 64, kept", ImageFolderConfig(path=str(folders["images"]), size=64), IMAGENET_STEP),
        ]
        for label, config, needed in cases:
            data = build_dataset(config)
            if "decoded" in label:
                data.kept_bytes = 0
            elif "kept" in label:
                data.batch(torch.arange(len(data)), generator=torch.Generator())
            found = rows_per_second(data, options.seconds)
            results.append({"data": label, "rows_per_second": found, "step_rows_per_second": needed})
    print(f"{'data':22}{'rows/s':>10}{'step takes':>12}{'ratio':>8}    ({os.cpu_count()} cores)")
    for row in results:
        ratio = row["rows_per_second"] / row["step_rows_per_second"]
        print(f"{row['data']:22}{row['rows_per_second']:10.0f}{row['step_rows_per_second']:12.0f}{ratio:8.2f}")
    if options.json:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), "torch": torch.__version__, "rows": results}))


if __name__ == "__main__":
    main()
