"""What a prior saves, and what a wrong one costs: searches on recorded learning curves with `prior` in their files.

    OMP_NUM_THREADS=1 python benchmarks/priors_on_curves.py [--searches NAME ...] [--repeats 20] [--networks 1]

As in search_on_curves.py, counted are the steps until the incumbent is truly among the best 5 % (and 2 %) of the
space. `right` is centred on the best of 20,000 configurations of the world, each spread an eighth of the range; `wrong`
is centred as far from it as the ranges allow, as narrow; `published` is what the paper trains with.
"""

from __future__ import annotations

import argparse
import math
import os
import warnings
from functools import partial
from typing import Any

import curves_world
import numpy as np
from record_curves import STEPS, values_at
from search_on_curves import OWN, PARAMETERS, SHARES, OwnSearch, line, ratio, steps_needed

SEARCHES = ("random + asha 4", "tpe + promotion 4", "gp + promotion 2 from 200")
KINDS = ("none", "right", "published", "wrong")


def best_of(world: curves_world.World, draws: int = 20_000) -> dict[str, Any]:
    """Return the configuration with the lowest final value of so many."""
    chance = np.random.default_rng(11)
    drawn = [values_at(list(row)) for row in chance.random((draws, 7))]
    ends = np.vstack([curves_world.features(values, world.network, STEPS[-1:]) for values in drawn])
    final = np.concatenate([world._model.predict(part) for part in np.array_split(ends, 20)])
    return drawn[int(final.argmin())]


def parameters(kind: str, best: dict[str, Any]) -> dict[str, Any]:
    """Return the block `parameters` with priors of a kind."""
    found: dict[str, Any] = {}
    for key, shape in PARAMETERS.items():
        entry = dict(shape)
        if "min" in entry and "distribution" not in entry:
            entry["distribution"] = "uniform"
        if kind == "published" and key != "optimizer.lr":
            entry["prior"] = "published"
        elif kind in ("right", "wrong") and key in best:
            entry["prior"] = _prior(entry, best[key], wrong=kind == "wrong")
        found[key] = entry
    return found


def _prior(shape: dict[str, Any], best: Any, *, wrong: bool) -> dict[str, Any]:
    if "values" in shape:
        values = shape["values"]
        at = values.index(best)
        chosen = (0 if at else len(values) - 1) if wrong else at
        share = 0.3 / (len(values) - 1)
        return {"probabilities": [0.7 if index == chosen else share for index in range(len(values))]}
    log = "log" in shape["distribution"]
    low, high = (math.log(shape[end]) if log else shape[end] for end in ("min", "max"))
    center = math.log(best) if log else best
    if wrong:
        center = low + (0.05 if center > (low + high) / 2 else 0.95) * (high - low)
    spread = (high - low) / 8
    return {"center": math.exp(center) if log else center, "spread": math.exp(spread) if log else spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", nargs="*", default=list(SEARCHES), help="names, or parts of them")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--networks", type=int, nargs="*", default=[1])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.fsync = lambda _: None  # type: ignore[assignment]  # a benchmark may lose its ledger
    for network in options.networks:
        world = curves_world.World(network)
        goals, best = world.goals(SHARES), best_of(world)
        print(f"network {network}: best 5 % {goals[0]:.2f}, best 2 % {goals[1]:.2f}; the best of 20,000: {best}")
        for name in (name for name in OWN if any(part in name for part in options.searches)):
            rows: dict[str, list[list[float]]] = {}
            for kind in options.kinds:
                settings = {**OWN[name], "parameters": parameters(kind, best)}
                make = partial(OwnSearch.of, settings)
                seeds = range(options.repeats)
                rows[kind] = [steps_needed(make, world, goals, seed, options.workers) for seed in seeds]
                print(line(f"{name}, {kind}", rows[kind]), flush=True)
            for index, share in enumerate(SHARES) if "none" in rows else ():
                for kind in rows.keys() - {"none"}:
                    ours, theirs = ([row[index] for row in rows[which]] for which in (kind, "none"))
                    middle, low, high = ratio(ours, theirs)
                    print(f"  best {share:.0%}: {kind} / none: {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
