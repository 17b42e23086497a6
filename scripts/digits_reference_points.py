"""What a Frechet distance on the digits means: its floor, flow matching in 1 and 50 steps, MeanFlow in 1 and 2.

    python scripts/digits_reference_points.py --out results
    python scripts/digits_reference_points.py best.yaml trainer.steps=2000

Trains MeanFlow and flow matching (ratio 0) with one configuration and one seed, prints a table, and writes it as JSON
with pictures of the samples. With sweeps/configs/digits_mlp.yaml it takes minutes on one core.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from meanflow_core.config import TrainConfig, load_config, with_values
from meanflow_core.metrics.floor import halves
from meanflow_core.sampling.evaluation_samples import Sampling, image_grid
from meanflow_core.sampling.pictures import save_picture
from meanflow_core.training.trainer import SharedData, Trainer

CONFIG = Path(__file__).parents[1] / "sweeps" / "configs" / "digits_mlp.yaml"


class Velocity(torch.nn.Module):
    """The instantaneous velocity u(z, t, t): flow matching never trains r < t, so that is what its Euler steps use."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z, r, t, labels):
        return self.net(z, t, t, labels)


def training_rows(shared: SharedData) -> dict[str, float]:
    """The training rows themselves, judged as samples are: what a perfect copy of the data would get."""
    rows, labels = shared.dataset.batch(torch.arange(len(shared.dataset)), generator=torch.Generator())
    return shared.evaluator.evaluate(rows, labels)


def trained(config: TrainConfig, shared: SharedData, what: str) -> tuple[Trainer, float]:
    began = time.perf_counter()
    trainer = Trainer(config, shared=shared)
    while trainer.step < config.trainer.steps:
        step, row = trainer.train(min(1000, config.trainer.steps - trainer.step))[-1]
        seconds = time.perf_counter() - began
        print(f"{what}: step {step}, velocity error {row['train/velocity_error']:.1f}, {seconds:.0f} s", flush=True)
    return trainer, time.perf_counter() - began


def judged(trainer: Trainer, nfe: int, *, velocity: bool) -> dict[str, float]:
    """Judge samples of the primary weights; `velocity`: by Euler steps of u(z, t, t)."""
    net, weights = trainer.net, next(iter(trainer.weights().values()))
    if velocity:
        net, weights = Velocity(net), {f"net.{name}": tensor for name, tensor in weights.items()}
    sampling = Sampling(trainer.config, trainer.dataset, trainer.world, trainer.device)
    return trainer.shared.evaluator.evaluate(sampling.draw(net, weights, nfe), sampling.labels)


def picture(trainer: Trainer, nfe: int, *, velocity: bool):
    net, weights = trainer.net, next(iter(trainer.weights().values()))
    if velocity:
        net, weights = Velocity(net), {f"net.{name}": tensor for name, tensor in weights.items()}
    sampling = Sampling(trainer.config, trainer.dataset, trainer.world, trainer.device)
    noise, labels, columns = sampling.grid_inputs()
    return image_grid(trainer.dataset.to_images(sampling.run(net, weights, noise, labels, nfe)), columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(CONFIG))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the JSON and the pictures")
    options, rest = parser.parse_known_args()
    words = [*options.overrides, *rest]
    if "=" in options.config:
        words, options.config = [options.config, *words], str(CONFIG)
    config = load_config(options.config, words)
    shared = Trainer.shared_data(config)
    rows = [
        {"what": "the training rows themselves (the floor)", "nfe": None, **training_rows(shared)},
        {"what": "two halves of all rows, class by class", "nfe": None, "fid": halves(shared.dataset)["mean"]},
    ]
    plans = [
        ("MeanFlow", config, (1, 2), False),
        ("flow matching (ratio 0)", with_values(config, {"objective.time.ratio": 0.0}), (1, 50), True),
    ]
    for what, plan, evaluations, velocity in plans:
        trainer, seconds = trained(plan, shared, what)
        for nfe in evaluations:
            values = judged(trainer, nfe, velocity=velocity)
            rows.append({"what": what, "nfe": nfe, **values, "train_seconds": round(seconds, 1)})
            name = f"digits-{what.split(' ')[0].lower()}-{nfe}nfe.png"
            save_picture(options.out / name, picture(trainer, nfe, velocity=velocity))
    best = {(row["what"], row["nfe"]): row["fid"] for row in rows}
    gain = best["flow matching (ratio 0)", 1] / best["MeanFlow", 1]
    result = {
        "rows": rows,
        "one_step_gain": gain,
        "protocol": trainer.evaluation_record() | {"nfe": "as in the rows"},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "config": config.to_dict(),
    }
    (options.out / "digits_reference_points.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{'':46}  NFE  Frechet  accuracy")
    for row in rows:
        accuracy = f"{row['accuracy']:8.3f}" if "accuracy" in row else ""
        print(f"{row['what']:46}  {row['nfe'] or '':>3}  {row['fid']:7.2f}  {accuracy}")
    print(f"\nin one step, MeanFlow's distance is {gain:.1f} times smaller than flow matching's")


if __name__ == "__main__":
    main()
