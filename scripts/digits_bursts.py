"""How often a training on the digits breaks out, by Adam's beta2 and learning rate, over several seeds.

    python scripts/digits_bursts.py [--rates 2e-3 4e-3] [--betas 0.999 0.95] [--seeds 3] [--steps 2000] [key=value ...]

A burst is a step whose squared error is more than twice the median of the hundred steps before it. The weights recover
from one within some dozen steps; their average remembers it for a thousand, so an evaluation soon after looks as if
the configuration were bad. The objective is one that sweeps of short trainings like to choose: a small weight power,
which lets rows with a large error pull hard.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from meanflow_core.config import load_config
from meanflow_core.errors import TrainingDiverged
from meanflow_core.training.trainer import SharedData, Trainer

CONFIG = Path(__file__).parents[1] / "sweeps" / "configs" / "digits_mlp.yaml"
OBJECTIVE = [
    "objective.time.mean=-0.9",
    "objective.time.ratio=0.75",
    "objective.guidance.scale=1.4",
    "objective.guidance.kappa=0.5",
    "objective.weight.power=0.35",
]
MEASURE = ["trainer.log_every=1", "evaluation.samples=1000", "evaluation.nfe=[1]"]
SETTLED = 400
"""Steps before which neither bursts nor evaluations count."""


def bursts(errors: Sequence[float], window: int = 100) -> int:
    """The number of bursts after the network has settled, from the squared error of every step."""
    return sum(errors[i] > 2 * statistics.median(errors[i - window : i]) for i in range(SETTLED, len(errors)))


def train(words: Sequence[str], every: int, shared: SharedData) -> tuple[int, list[float]]:
    """Train one network; returns its number of bursts and the Frechet distances after it has settled."""
    trainer = Trainer(load_config(CONFIG, [*OBJECTIVE, *MEASURE, *words]), shared=shared)
    errors: list[float] = []
    distances: list[float] = []
    try:
        while trainer.step < trainer.config.trainer.steps:
            errors += [row["train/squared_error"] for _, row in trainer.train(every)]
            if trainer.step > SETTLED:
                distances.append(trainer.evaluate()["eval/fid_1nfe"])
    except TrainingDiverged as error:
        print(f"{' '.join(words)}: {error}")
        distances.append(float("inf"))
    return bursts(errors), distances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 4e-3])
    parser.add_argument("--betas", type=float, nargs="+", default=[0.999, 0.95])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200, help="steps between evaluations")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    shared = Trainer.shared_data(load_config(CONFIG, [*OBJECTIVE, *MEASURE]))
    print("     lr  beta2  seed  bursts  Frechet distance (EMA): worst  median    last", flush=True)
    for rate, beta, seed in itertools.product(options.rates, options.betas, range(options.seeds)):
        words = [f"optimizer.lr={rate}", f"optimizer.beta2={beta}", f"seed={seed}", f"trainer.steps={options.steps}"]
        count, found = train([*words, *options.overrides, *rest], options.every, shared)
        middle = statistics.median(found)
        print(
            f"{rate:7g}  {beta:5g}  {seed:4d}  {count:6d}  {max(found):29.2f}  {middle:6.2f}  {found[-1]:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
