"""What makes MeanFlow on the digits collapse, and what does not: short trainings of a small MLP.

    python scripts/digits_stability.py [--steps 2500] [--only WORD]

`times` multiplies the frequencies of the time embedding's sinusoids: 1 is the package's (the fastest turns by 1 rad
over the unit interval), 1000 the habit of diffusion models that count time in steps.
"""

import argparse
import time

from meanflow_core.config import load_config
from meanflow_core.errors import TrainingDiverged
from meanflow_core.training.trainer import Trainer

BASE = {
    "model": {"name": "mlp", "width": 128, "depth": 3},
    "optimizer": {"lr": 1e-3, "beta2": 0.999},
    "ema": {"decays": [0.999]},
    "trainer": {"batch_size": 128, "log_every": 500, "device": "cpu"},
    "evaluation": {"nfe": [1], "samples": 1000},
}
VARIANTS: list[tuple[float, list[str]]] = [
    (1, []),
    (30, []),
    (1000, []),
    (30, ["objective.weight.power=0"]),
    (30, ["objective.weight.power=0", "optimizer.warmup_steps=100", "optimizer.clip_norm=1"]),
    (1, ["objective.weight.power=0"]),
    (1, ["optimizer.lr=0.01"]),
    (1, ["optimizer.lr=0.01", "optimizer.warmup_steps=100", "optimizer.clip_norm=1"]),
    (1, ["optimizer.lr=0.1"]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations")
    parser.add_argument("--only", default="", help="only variants that contain this word")
    options = parser.parse_args()
    for factor, words in VARIANTS:
        name = f"times x{factor:g} {' '.join(words)}".strip()
        if options.only not in name:
            continue
        config = load_config(BASE, [*words, f"trainer.steps={options.steps}"])
        trainer = Trainer(config)
        trainer.net.condition.times.frequency.mul_(factor)
        began, rows = time.perf_counter(), []
        try:
            while trainer.step < options.steps:
                row = trainer.train(options.every)[-1][1]
                rows.append((trainer.step, row, trainer.evaluate()))
        except TrainingDiverged as error:
            print(f"{name}: {error}")
        print(f"{name} ({time.perf_counter() - began:.0f} s)")
        print("    step  fid (EMA)  fid (raw)  accuracy  |du/dt|  velocity error  squared error  gradient")
        for step, row, values in rows:
            print(
                f"    {step:4d}  {values['eval/fid_1nfe']:9.2f}  {values['eval/raw/fid_1nfe']:9.2f}"
                f"  {values['eval/accuracy_1nfe']:8.2f}  {row['train/du_dt_norm']:7.1f}"
                f"  {row['train/velocity_error']:14.1f}  {row['train/squared_error']:13.4g}"
                f"  {row['train/grad_norm']:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
