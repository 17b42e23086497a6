"""What TPE loses, and saves, by being shown a sample of a long sweep instead of all of it.

    python benchmarks/tpe_sample.py [--trials 600] [--seeds 6]

The objective, its learning curves and the rungs are those of benchmarks/search_quality.py; draws come one at a time
from the search itself, without ledger or engine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import optuna
from search_quality import ASHA, STEPS, curve, final_value, spec_of

from orchestrator.search import Observation
from orchestrator.search.methods import tpe
from orchestrator.search.rules.arrivals import keep_count
from orchestrator.trials.trial import TrialState

RUNGS = (100, 300, 900)


def values_of(seed: int, trials: int) -> list[float]:
    """The final value of every trial that TPE draws, in order."""
    spec = spec_of({"method": "tpe", "run_cap": trials, "early_terminate": ASHA}, seed)
    searching = spec.method(spec)
    seen: list[Observation] = []
    at_rung: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    found, position = [], 0
    for number in range(trials):
        draw = searching.draw(position, seen, lambda values: True)
        assert draw is not None, "a continuous space is never exhausted"
        position = draw.position + 1
        seen.append(trained(draw.values, number, random.Random(f"{seed}/{number}"), at_rung))
        found.append(final_value(draw.values))
    return found


def trained(x: dict[str, Any], number: int, noise: random.Random, at_rung: dict[int, list[float]]) -> Observation:
    """What comes of a trial: stopped at a rung, or trained to its end."""
    for rung, others in at_rung.items():
        value = curve(x, rung, noise)
        others.append(value)
        if value > sorted(others)[keep_count(len(others), ASHA["eta"]) - 1]:
            return Observation(number, x, TrialState.PRUNED, (value,), rung)
    return Observation(number, x, TrialState.FINISHED, (curve(x, STEPS, noise),), STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sample = tpe.SHOWN
    print("shown     seed    best  median of the last 100  seconds of processor time")
    for shown in (options.trials, sample):
        tpe.SHOWN = shown
        for seed in range(options.seeds):
            began = time.process_time()
            values = values_of(seed, options.trials)
            late = statistics.median(values[-100:])
            print(
                f"{shown:5}  {seed:7}  {min(values):6.4f}  {late:22.3f}  {time.process_time() - began:25.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
