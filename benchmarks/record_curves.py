"""Train MeanFlow on the digits at many configurations and keep the learning curves, for benchmarks/search_on_curves.py.

    OMP_NUM_THREADS=1 nice python benchmarks/record_curves.py [--trainings 330]

About 10 seconds of one core each. The table is written after every training, so it may be interrupted and goes on.
Two thirds of the configurations are a Sobol sequence over the space; every third lies near one of the best so far,
where a search ends. Some are trained on three seeds, which shows the noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

from scipy.stats import qmc

ROOT = Path(__file__).parent
TABLE = ROOT / "data" / "digits_curves.json"
STEPS = (100, 200, 300, 400, 600, 800)
NETWORKS = ({"model.width": 96, "model.depth": 2}, {})
"""The smaller network (0) and that of sweeps/configs/digits_mlp.yaml (1)."""
NEAR = 0.12
"""Standard deviation, on each axis of the unit cube, of a configuration near a good one."""
SHARE_SMALL, REPEATED = 4, 8
"""Every fourth configuration trains the smaller network; every eighth trains on three seeds."""
FIRST = 3000
"""Number of this script's first configuration; the ones below were recorded before it was written."""
AXES = ("law", "mean", "ratio", "scale", "kappa", "power", "lr")


def values_at(point: list[float]) -> dict[str, Any]:
    """Return the configuration at a point of the unit cube."""
    u = dict(zip(AXES, point, strict=True))
    values: dict[str, Any] = {"objective.time.law": "lognorm" if u["law"] < 0.5 else "uniform"}
    if u["law"] < 0.5:
        values["objective.time.mean"] = -1.6 + 2.4 * u["mean"]
    return values | {
        "objective.time.ratio": u["ratio"],
        "objective.guidance.scale": 1.0 + 2.0 * u["scale"],
        "objective.guidance.kappa": (0.0, 0.5, 0.8)[min(2, int(3 * u["kappa"]))],
        "objective.weight.power": 1.5 * u["power"],
        "optimizer.lr": 10 ** (-4 + 2 * u["lr"]),
    }


def point_of(values: dict[str, Any]) -> list[float]:
    """Return a point of the unit cube at which `values_at` gives this configuration."""
    return [
        0.25 if values["objective.time.law"] == "lognorm" else 0.75,
        (values.get("objective.time.mean", -0.4) + 1.6) / 2.4,
        values["objective.time.ratio"],
        (values["objective.guidance.scale"] - 1) / 2,
        ((0.0, 0.5, 0.8).index(values["objective.guidance.kappa"]) + 0.5) / 3,
        values["objective.weight.power"] / 1.5,
        (math.log10(values["optimizer.lr"]) + 4) / 2,
    ]


def next_training(table: list[dict[str, Any]]) -> tuple[int, int, int, dict[str, Any]]:
    """Return (configuration, network, seed, values) of the next training: a function of the table."""
    done = {(entry["config"], entry["seed"]) for entry in table}
    number = FIRST
    while True:
        seeds = (0, 1, 2) if number % REPEATED == 0 else (0,)
        for seed in seeds:
            if (number, seed) not in done:
                known = [entry for entry in table if entry["config"] == number]
                network = int(number % SHARE_SMALL != 0) if number % REPEATED else number // REPEATED % 2
                values = known[0]["values"] if known else _drawn(number, network, table)
                return number, network, seed, values
        number += 1


def _drawn(number: int, network: int, table: list[dict[str, Any]]) -> dict[str, Any]:
    if number % 3 == 2:
        ended = [e for e in table if e["model"] == network and str(STEPS[-1]) in e["curve"] and e["seed"] == 0]
        best = sorted(ended, key=lambda entry: entry["curve"][str(STEPS[-1])])[:8]
        chance = random.Random(number)
        near = [u + chance.gauss(0, NEAR) for u in point_of(chance.choice(best)["values"])]
        near[0] = near[0] if chance.random() > 0.15 else chance.random()
        near[4] = near[4] if chance.random() > 0.3 else chance.random()
        return values_at([min(1.0, max(0.0, u)) for u in near])
    sobol = qmc.Sobol(len(AXES), scramble=True, rng=3)
    return values_at([float(u) for u in sobol.random(number - FIRST + 1)[-1]])


def trained(network: int, seed: int, values: dict[str, Any]) -> dict[str, Any]:
    """Train to the end; return the curve, the seconds and how it ended."""
    from meanflow_core import Trainer
    from meanflow_core.config import load_config, with_values
    from meanflow_core.errors import TrainingDiverged

    base = load_config(ROOT.parent / "sweeps/configs/digits_mlp.yaml")
    settings = {"trainer.steps": STEPS[-1], "trainer.device": "cpu", "evaluation.samples": 500, "evaluation.nfe": [1]}
    trainer = Trainer(with_values(base, {**settings, **NETWORKS[network], **values, "seed": seed}))
    began, curve, state = time.process_time(), {}, "finished"
    try:
        for step in STEPS:
            trainer.train(step - trainer.step)
            curve[str(step)] = trainer.evaluate()["eval/fid_1nfe"]
    except TrainingDiverged:
        state = "diverged"
    return {"curve": curve, "seconds": round(time.process_time() - began, 2), "state": state}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=330, help="size of the table to stop at")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    table: list[dict[str, Any]] = json.loads(options.table.read_text())
    while len(table) < options.trainings:
        number, network, seed, values = next_training(table)
        sizes = ("width 96, depth 2, else the shipped base", "shipped base (width 192, depth 3)")
        entry = {"source": f"recorded, {sizes[network]}, 500 samples", "model": network, "config": number, "seed": seed}
        table.append({**entry, "values": values, **trained(network, seed, values)})
        draft = options.table.with_suffix(".part")
        draft.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in table) + "\n]\n")
        os.replace(draft, options.table)
        print(len(table), number, network, seed, table[-1]["state"], table[-1]["curve"].get("800"), flush=True)


if __name__ == "__main__":
    main()
