"""How many steps of training a search needs on MeanFlow's own learning curves, beside other tools'.

    OMP_NUM_THREADS=1 python benchmarks/search_on_curves.py [--searches NAME ...] [--repeats 30] [--workers 1 4]

The objective is `curves_world.World`, a model of recorded trainings, once for each of two networks. A search is
charged every step that it trains. Counted are the steps until its incumbent, the trial that it would call the best
one, is truly among the best 5 % (and 2 %) of the space. It is looked at whenever a trial has come to its full length:
for the peers it is the trial of the best value there, for this project what its leaderboard has first (`select`).
This engine's searches run through the real engine and ledger. Peers need `pip install optuna ray syne-tune`; one that
is not installed is left out.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import curves_world
from curves_peers import PEERS
from curves_world import STEPS, World, held_out, seed_noise

LENGTH, CAP = STEPS[-1], 24_000
SHARES = (0.05, 0.02)
PARAMETERS = {
    "objective.time.law": {"values": ["lognorm", "uniform"]},
    "objective.time.mean": {"min": -1.6, "max": 0.8, "when": {"objective.time.law": "lognorm"}},
    "objective.time.ratio": {"min": 0.0, "max": 1.0},
    "objective.guidance.scale": {"min": 1.0, "max": 3.0},
    "objective.guidance.kappa": {"values": [0.0, 0.5, 0.8]},
    "objective.weight.power": {"min": 0.0, "max": 1.5},
    "optimizer.lr": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2},
}
FLOATS = ("objective.time.mean", "objective.time.ratio", "objective.guidance.scale", "objective.weight.power")
PROMOTE4 = {"type": "asha", "min_iter": 100, "eta": 4, "promote": True}
OWN: dict[str, dict[str, Any]] = {
    "random + asha 4": {"method": "random", "early_terminate": {**PROMOTE4, "promote": False}},
    "tpe + asha 2 from 200": {"method": "tpe", "early_terminate": {"type": "asha", "min_iter": 200, "eta": 2}},
    "tpe + promotion 4": {"method": "tpe", "early_terminate": PROMOTE4},
    "gp + promotion 4": {"method": "gp", "early_terminate": PROMOTE4},
    "gp + promotion 2 from 200": {"method": "gp", "early_terminate": {**PROMOTE4, "min_iter": 200, "eta": 2}},
    "gp + promotion 2 from 400": {"method": "gp", "early_terminate": {**PROMOTE4, "min_iter": 400, "eta": 2}},
    "gp": {"method": "gp"},
}


class OwnSearch:
    """This engine, asked as a runner asks it, with a sweep of its own kept in a folder."""

    def __init__(self, source: dict[str, Any], folder: Path) -> None:
        from orchestrator.engine.start import start_sweep
        from orchestrator.paths import Home
        from orchestrator.spec.sweep import SweepSpec

        self._engine = start_sweep(Home(folder), SweepSpec.from_source(source))

    @classmethod
    def of(cls, settings: dict[str, Any], seed: int, folder: Path) -> OwnSearch:
        """Return a search of the parameters above, with these settings."""
        parameters = {
            key: {**shape, "distribution": "uniform"} if key in FLOATS else shape for key, shape in PARAMETERS.items()
        }
        sweep = {
            **{"name": "curves", "trainer": "none:None", "metric": {"name": "fid"}, "run_cap": 150, "seed": seed},
            **{"parameters": parameters, **settings},
        }
        base = {"trainer": {"steps": LENGTH, "eval_every": 200}, "seed": 0}
        return cls({"file": None, "sweep": sweep, "base": base}, folder)

    def next(self) -> tuple[str, dict[str, Any], list[int]] | None:
        """Return (trial, values, steps at which it reports), None where nothing is to be done now."""
        from orchestrator.trials.protocol import Assignment

        work = self._engine.next()
        if not isinstance(work, Assignment):
            return None
        return work.trial, dict(self._engine.ledger.history(work.trial).values), list(work.remaining)

    def report(self, trial: str, step: int, value: float) -> bool:
        """Take in a report; return whether the trial goes on."""
        from orchestrator.trials.protocol import Decision, Outcome, Report

        metrics = {self._engine.spec.metric.name: value}
        report = Report(step=step, metrics=metrics, seconds=1.0, checkpoint=f"memory://{step}")
        goes_on = self._engine.report(trial, report) is Decision.CONTINUE
        if not goes_on or step >= LENGTH:
            self._engine.ended(trial, Outcome(kind="stopped"))
        return goes_on

    def incumbent(self, ended: dict[str, float]) -> str:
        """Return the trial that the leaderboard has first."""
        from orchestrator.results import best_so_far

        best = best_so_far(self._engine.spec, self._engine.ledger.trials())
        assert best is not None
        return best.trial

    def spent(self) -> int:
        """Return the steps of all trials."""
        return sum(trial.steps for trial in self._engine.ledger.trials())

    def close(self) -> None:
        """Close the ledger."""
        self._engine.ledger.close()


def trained(search: Any, world: World, seed: int, workers: int, folder: Path) -> Iterator[tuple[int, float]]:
    """Run a search up to `CAP` steps; yield (steps spent, true final value of the incumbent) as it changes."""
    running: list[tuple[int, int, str, dict[int, float], list[int], dict[str, Any]]] = []
    count, now, spent = itertools.count(), 0, 0
    at: dict[str, int] = {}
    ended: dict[str, float] = {}
    tried: dict[str, dict[str, Any]] = {}
    best = ""
    try:
        while spent < CAP:
            while len(running) < workers and (work := search.next()) is not None:
                trial, values, stops = work
                reported = world.reported(values, f"{seed}/{trial}")
                stop = next(step for step in stops if step > at.get(trial, 0))
                heapq.heappush(running, (now + stop - at.get(trial, 0), next(count), trial, reported, stops, values))
            if not running:
                return
            now, _, trial, reported, stops, values = heapq.heappop(running)
            step = next(step for step in stops if step > at.get(trial, 0))
            spent, at[trial] = spent + step - at.get(trial, 0), step
            value = reported[step]
            goes_on = search.report(trial, step, value)
            if step == LENGTH:
                ended[trial], tried[trial] = value, values
                if (found := search.incumbent(ended)) != best:
                    best = found
                    yield spent, world.curve(tried[best])[LENGTH]
            elif goes_on and step < LENGTH:
                following = next(other for other in stops if other > step)
                heapq.heappush(running, (now + following - step, next(count), trial, reported, stops, values))
    finally:
        search.close()


def steps_needed(
    make: Callable[[int, Path], Any], world: World, goals: list[float], seed: int, workers: int
) -> list[float]:
    """Return the steps until the incumbent is truly as good as each goal; infinite where `CAP` comes first."""
    needed = [math.inf] * len(goals)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        search = make(seed, Path(folder))
        for spent, value in trained(search, world, seed, workers, Path(folder)):
            for index, goal in enumerate(goals):
                if value <= goal:
                    needed[index] = min(needed[index], spent)
            if all(map(math.isfinite, needed)):
                break
    return needed


def searches() -> dict[str, Callable[[int, Path], Any]]:
    """Return everything that can be run here, by name."""
    own = {
        f"meansweep {name}": (lambda seed, folder, settings=settings: OwnSearch.of(settings, seed, folder))
        for name, settings in OWN.items()
    }
    peers = {name: (lambda seed, folder, peer=peer: peer(seed)) for name, peer in PEERS.items() if peer.installed()}
    return {**own, **peers}


def median(values: list[float]) -> float:
    """Return the upper median, so that a search that fails in half of its runs has none."""
    return sorted(values)[len(values) // 2]


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Return the ratio of the medians and the 95 % interval of a paired bootstrap; a failure counts as twice `CAP`."""
    pairs = [tuple(min(value, 2.0 * CAP) for value in pair) for pair in zip(ours, theirs, strict=True)]
    chance = random.Random(0)

    def of(sample: list[tuple[float, ...]]) -> float:
        return statistics.median(pair[0] for pair in sample) / statistics.median(pair[1] for pair in sample)

    drawn = sorted(of(chance.choices(pairs, k=len(pairs))) for _ in range(1000))
    return of(pairs), drawn[25], drawn[974]


def shown(value: float) -> str:
    """Return steps as the table has them."""
    return f"{value:,.0f}" if math.isfinite(value) else f"> {CAP:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", nargs="*", help="names, or parts of them; by default all")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--networks", type=int, nargs="*", default=[1, 0], help="1: the shipped one, 0: the smaller")
    parser.add_argument("--trainings", type=int, help="how many of the recorded trainings the world is made of")
    parser.add_argument("--json", type=Path, help="adds the results to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.fsync = lambda _: None  # type: ignore[assignment]  # a benchmark may lose its ledger
    curves_world.TRAININGS = options.trainings
    for name, value in held_out().items():
        print(f"{name}: {value:.2f}")
    print("noise between seeds (log):", ", ".join(f"{step}: {noise:.2f}" for step, noise in seed_noise().items()))
    results: dict[str, dict[str, list[list[float]]]] = {}
    if options.json and options.json.exists():
        results = json.loads(options.json.read_text())
    chosen = {
        name: make
        for name, make in searches().items()
        if not options.searches or any(part in name for part in options.searches)
    }
    for network, workers in itertools.product(options.networks, options.workers):
        world = World(network)
        goals, cell = world.goals(SHARES), f"network {network}, workers {workers}"
        print(f"\n{cell}: best 5 % {goals[0]:.2f}, best 2 % {goals[1]:.2f}")
        rows = results.setdefault(cell, {})
        for name, make in chosen.items():
            began = time.process_time()
            rows[name] = [steps_needed(make, world, goals, seed, workers) for seed in range(options.repeats)]
            seconds = (time.process_time() - began) / options.repeats
            print(line(name, rows[name]), f"  {seconds:.1f} s a search", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results))
        compare(rows)


def line(name: str, rows: list[list[float]]) -> str:
    """Return a row: medians and quartiles for each share of the space."""
    cells = []
    for column in zip(*rows, strict=True):
        ordered = sorted(column)
        low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
        cells.append(f"{shown(median(list(column))):>9} ({shown(low)} to {shown(high)})")
    return f"{name:34} " + "   ".join(f"{cell:30}" for cell in cells)


def compare(rows: dict[str, list[list[float]]]) -> None:
    """Print this engine's searches as ratios to the best peer, on the repeats that both have."""
    own = [name for name in rows if name.startswith("meansweep")]
    peers = [name for name in rows if name not in own]
    for index, share in enumerate(SHARES) if own and peers else ():
        best = min(peers, key=lambda name: median([row[index] for row in rows[name]]))
        for name in own:
            count = min(len(rows[name]), len(rows[best]))
            ours, theirs = ([row[index] for row in rows[which][:count]] for which in (name, best))
            middle, low, high = ratio(ours, theirs)
            print(f"  best {share:.0%}: {name} / {best}: {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
