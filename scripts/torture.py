"""Kill sweeps with SIGKILL at random moments, let them go on, and compare them with sweeps that were left alone.

    python scripts/torture.py [--runs 50] [--short] [--methods grid random ... two] [--seed 0]

Each run is a driver in a process of its own, over real files, with a trainer of a few lines. It is killed at a moment
drawn at random, started again, killed again, up to a number of times drawn at random, and then left to finish. Its
ledger must then hold the same configurations, seeds, reported values (so rung values) and decisions as that of the
undisturbed sweep, and no more work may have been done twice than one stretch for each kill. Exit code 1 otherwise.

In `two` and `two-promote`, two workers report in turn, under asha. Which of them reports first may change with a kill,
and decisions with it; configurations and seeds may not, and with promotion no trial may go past a rung unless it was
among its best by then. (tests/orchestrator/engine/test_resume.py kills at every write of the ledger.)
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import optuna.samplers  # noqa: F401  # here, so that forked drivers need not
import scipy.stats.qmc  # noqa: F401

from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from tests.orchestrator import toy
from tests.orchestrator.simulation import drive, essence, open_engine, unearned

NAP = 0.004  # seconds a stretch of training takes, so that kills fall into all parts of the loop
ASHA = {"type": "asha", "min_iter": 10, "eta": 3}
SWEEPS: dict[str, dict[str, Any]] = {
    "grid": {"method": "grid", "run_cap": None, "parameters": {"x": {"values": [0.05 * i for i in range(1, 13)]}}},
    "random": {"method": "random", "run_cap": 12},
    "tpe": {"method": "tpe", "run_cap": 12},
    "asha": {"method": "tpe", "run_cap": 16, "early_terminate": ASHA},
    "promote": {"method": "tpe", "run_cap": 16, "early_terminate": {**ASHA, "promote": True}},
    "hyperband": {"method": "random", "run_cap": 16, "early_terminate": {**ASHA, "type": "hyperband", "brackets": 2}},
    "pbt": {"method": "pbt", "run_cap": 6, "parameters": {"x": {"min": 0.0, "max": 1.0}}},
    "two": {"method": "random", "run_cap": 16, "early_terminate": ASHA},
    "two-promote": {"method": "random", "run_cap": 16, "early_terminate": {**ASHA, "promote": True}},
}
TWO_WORKERS = ("two", "two-promote")


def start_driver(folder: Path, method: str) -> int:
    """Fork a driver, so that it starts in a moment, and return its process id."""
    content = toy.sweep("torture", **(toy.trained("Slow", nap=NAP) | SWEEPS[method]))
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ["TOY_TRACE"] = str(folder / "trace")
        engine = open_engine(Home(folder), content)
        if method in TWO_WORKERS:
            drive(engine, workers=2)
            code = 0 if engine.finish().state == "finished" else 1
        else:
            code = 0 if run_inline(engine).state == "finished" else 1
    finally:
        os._exit(code)  # the rest of this program is the parent's


def wait_for(child: int) -> None:
    """Wait until a driver has ended by itself.

    Raises:
        RuntimeError: it ended with an error.
    """
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise RuntimeError(f"a driver ended with status {status}")


def disturbed(folder: Path, method: str, duration: float, chance: random.Random) -> int:
    """Run a sweep with kills and return how many kills met a driver alive."""
    kills = 0
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        child = start_driver(folder, method)
        time.sleep(chance.uniform(0, duration))
        os.kill(child, signal.SIGKILL)  # not yet waited for, so the id is still its own
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
    wait_for(start_driver(folder, method))
    return kills


def decided(folder: Path, method: str) -> list[tuple[Any, ...]]:
    """Return what must be as in the undisturbed sweep, one row a trial."""
    trials = Ledger.open(Home(folder).sweep("torture")).trials()
    unended = [trial.id for trial in trials if not trial.state.ended]
    if unended:
        raise RuntimeError(f"a sweep that is over has left trials {', '.join(unended)}")
    rows = essence(trials)
    if method == "two-promote":
        beyond = unearned(Home(folder).sweep("torture").journal, rungs=(10, 30), eta=3, run_cap=16)
        if beyond:
            raise RuntimeError("; ".join(beyond))
    return [row[:4] for row in rows] if method in TWO_WORKERS else rows  # id, seed, values, hash


def differences(found: Sequence[Any], expected: Sequence[Any]) -> list[str]:
    """Return what is lost, doubled or different."""
    ids = [row[0] for row in found]
    lines = [f"trial {row[0]} is lost" for row in expected if row[0] not in ids]
    lines += [f"trial {one} is there {ids.count(one)} times" for one in sorted(set(ids)) if ids.count(one) > 1]
    lines += [f"trial {one} is one too many" for one in ids if one not in [row[0] for row in expected]]
    lines += [f"{was}\n  became {row}" for was, row in zip(expected, found, strict=False) if was != row]
    return lines


def torture(method: str, runs: int, folder: Path, seed: int) -> bool:
    """Torture one method; print a line; True if nothing was found wrong."""
    chance = random.Random(f"{method}/{seed}")
    began = time.perf_counter()
    whole = folder / "whole"
    whole.mkdir(parents=True)
    wait_for(start_driver(whole, method))
    duration = time.perf_counter() - began
    expected = decided(whole, method)
    stretches = stretches_of(whole)
    kills = repeated = wrong = 0
    for number in range(runs):
        place = folder / str(number)
        place.mkdir()
        met = disturbed(place, method, duration, chance)
        kills += met
        lines = differences(decided(place, method), expected)
        again = stretches_of(place) - stretches
        repeated += again
        if method not in TWO_WORKERS and not 0 <= again <= met:
            lines.append(f"{again} stretches were trained again after {met} kills")
        wrong += bool(lines)
        for line in lines:
            print(f"  run {number}: {line}")
    verdict = "all as undisturbed" if not wrong else f"{wrong} DIFFER"
    took = time.perf_counter() - began
    print(
        f"{method:11} {runs} runs, {kills} kills, {repeated} stretches repeated, {verdict}  ({took:.0f} s)", flush=True
    )
    return wrong == 0


def stretches_of(folder: Path) -> int:
    return len((folder / "trace").read_text().splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--short", action="store_true", help="3 runs of each method")
    parser.add_argument("--methods", nargs="*", default=list(SWEEPS), choices=SWEEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        good = [
            torture(method, 3 if options.short else options.runs, Path(folder) / method, options.seed)
            for method in options.methods
        ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
