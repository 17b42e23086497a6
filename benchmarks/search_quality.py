"""How many training steps a search needs until one of its trials has ended among the best 5 % of the space.

    python benchmarks/search_quality.py [--seeds 20] [--json result.json]

The objective is analytic, with learning curves that cross: a fast learner leads early and stays behind, ranks at the
first rung agree with the final ones only in part. Each search runs through the real engine and ledger, one trial at a
time. Bar: tpe with asha needs at most half the steps of random search (median over the seeds).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.engine.start import start_sweep
from orchestrator.paths import Home
from orchestrator.spec.sweep import SweepSpec
from orchestrator.trials.protocol import Assignment, Decision, Outcome, Report

STEPS, EVERY, CAP = 2700, 900, 120
ASHA = {"type": "asha", "min_iter": 100, "eta": 3, "audit": 0}
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "random + asha": {"method": "random", "early_terminate": ASHA},
    "qmc": {"method": "qmc"},
    "tpe": {"method": "tpe"},
    "tpe + asha": {"method": "tpe", "early_terminate": ASHA},
    "random + promotion": {"method": "random", "early_terminate": {**ASHA, "promote": True}},
    "tpe + promotion": {"method": "tpe", "early_terminate": {**ASHA, "promote": True}},
    "gp + asha": {"method": "gp", "early_terminate": ASHA},
}
DEFAULT = ("random", "random + asha", "random + promotion", "tpe", "tpe + asha", "tpe + promotion")
PARAMETERS = {
    "lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
    "ratio": {"min": 0.0, "max": 1.0},
    "power": {"min": 0.0, "max": 2.0},
    "scale": {"min": 1.0, "max": 4.0},
    "law": {"values": ["uniform", "lognorm"]},
}


def final_value(x: dict[str, Any]) -> float:
    """What a trial comes to: a bent valley in (lr, power), a slope in scale, one distribution better than the other."""
    lr = math.log10(x["lr"]) + 2.6
    bend = x["power"] - 1.0 + 0.4 * lr
    return (
        0.6 * lr**2
        + 1.5 * bend**2
        + 2.0 * (x["ratio"] - 0.25) ** 2
        + 0.15 * (x["scale"] - 2.2) ** 2
        + 0.4 * (x["law"] == "uniform")
    )


def curve(x: dict[str, Any], step: int, noise: random.Random) -> float:
    """The value at a step: large learning rates fall fast, a large scale falls slowly; evaluation is noisy."""
    half_time = 60 + 90 * abs(math.log10(x["lr"]) + 1.5) + 40 * (x["scale"] - 1)
    end = final_value(x)
    return end + (6 - min(end, 5)) * 0.5 ** (step / half_time) + noise.gauss(0, 0.03)


def spec_of(search: dict[str, Any], seed: int) -> SweepSpec:
    sweep = {
        "name": f"quality-{seed}",
        "trainer": "none:None",
        "metric": {"name": "value", "goal": "minimize"},
        "run_cap": CAP,
        "seed": seed,
        "parameters": PARAMETERS,
        **search,
    }
    keys = {"lr": 1e-3, "ratio": 0.0, "power": 1.0, "scale": 1.0, "law": "uniform"}
    base = {"trainer": {"steps": STEPS, "eval_every": EVERY}, "seed": 0, **keys}
    return SweepSpec.from_source({"file": None, "sweep": sweep, "base": base})


def steps_needed(search: dict[str, Any], seed: int, goal: float, folder: Path) -> int:
    """Return the steps trained until a trial ended at or below `goal`; twice the whole budget if none did."""
    engine = start_sweep(Home(folder), spec_of(search, seed))
    spent = 0
    with engine.ledger:
        while isinstance(work := engine.next(), Assignment):
            before = work.start
            for step in work.remaining:
                spent, before = spent + step - before, step
                value = curve(work.config, step, random.Random(f"{seed}/{work.trial}/{step}"))
                report = Report(step=step, metrics={"value": value}, seconds=1.0, checkpoint=f"memory://{step}")
                if engine.report(work.trial, report) is not Decision.CONTINUE:
                    break
            engine.ended(work.trial, Outcome(kind="stopped"))
            if before == STEPS and final_value(work.config) <= goal:
                return spent
    return 2 * CAP * STEPS


def goal_of(share: float) -> float:
    """Return the value that this share of the space reaches."""
    source = random.Random(7)
    space = spec_of(SEARCHES["random"], 0).space
    values = sorted(final_value(space.draw(source.random)) for _ in range(40_000))
    return values[round(share * len(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--searches", nargs="*", default=DEFAULT, choices=SEARCHES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    goal = goal_of(options.share)
    began = time.perf_counter()
    print(f"goal: {goal:.4f}, the best {options.share:.0%} of the space; a trial has {STEPS} steps")
    rows: list[dict[str, Any]] = []
    for name in options.searches:
        counts = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                counts.append(steps_needed(SEARCHES[name], seed, goal, Path(folder)))
        middle = statistics.median(counts)
        low, _, high = statistics.quantiles(counts, n=4)
        rows.append({"search": name, "median": middle, "quartiles": [low, high], "steps": counts})
        against = f"{middle / rows[0]['median']:5.2f} of {rows[0]['search']}"
        print(f"{name:18} median {middle:8.0f} steps   quartiles {low:8.0f} {high:8.0f}   {against}")
    print(f"{time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"share": options.share, "goal": goal, "searches": rows}, indent=2))


if __name__ == "__main__":
    main()
