"""What sweep files find, and what they spend, on MeanFlow's own learning curves.

    OMP_NUM_THREADS=1 python benchmarks/sweep_on_curves.py [sweeps/quickstart.yaml ...] [--repeats 40] [--workers 2]

Each file runs through the real engine and ledger as it stands (method, ranges, number of trials, rungs, replicates),
with other seeds each time; its trials are not trained but read off `curves_world.World`, so a file must vary the
seven parameters of that world and train 800 steps of the shipped digits network. Printed are the steps of training
and the true final value of what the leaderboard has first at the end; between files, the paired difference.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from curves_world import World
from search_on_curves import OwnSearch, trained

from orchestrator.spec import read_spec


def swept(file: Path, world: World, seed: int, workers: int) -> tuple[int, float]:
    """Return the steps that a sweep spends and the true final value of the trial that it calls the best."""
    source = read_spec(file).source
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        search = OwnSearch({**source, "sweep": {**source["sweep"], "seed": seed}}, Path(folder))
        *_, (_, value) = trained(search, world, seed, workers, Path(folder))
        return search.spent(), value


def main() -> None:
    """Run every file as often as asked for, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=[Path("sweeps/quickstart.yaml")])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.fsync = lambda _: None  # type: ignore[assignment]  # a benchmark may lose its ledger
    world = World(1)
    found: dict[Path, list[float]] = {}
    for file in options.files:
        began = time.process_time()
        runs = [swept(file, world, seed, options.workers) for seed in range(options.repeats)]
        found[file] = [value for _, value in runs]
        low, middle, high = statistics.quantiles(found[file], n=4)
        steps = statistics.mean(spent for spent, _ in runs)
        seconds = (time.process_time() - began) / options.repeats
        print(f"{file}: {steps:,.0f} steps, true value {middle:.2f} ({low:.2f} to {high:.2f}), {seconds:.1f} s a sweep")
    first, *others = found
    for other in others:
        gaps = [b - a for a, b in zip(found[first], found[other], strict=True)]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        print(f"{other} less {first}: {statistics.mean(gaps):+.2f} (standard error {error:.2f})")


if __name__ == "__main__":
    main()
