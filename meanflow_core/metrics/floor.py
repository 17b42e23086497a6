"""What a metric says of real data against real data: `python -m meanflow_core.metrics.floor [CONFIG]`.

No model can be expected to score better, and a figure means little without it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_core.config import EvaluationConfig, load_config
from meanflow_core.data import DataError, Dataset, build_dataset
from meanflow_core.errors import ConfigError
from meanflow_core.metrics.build import build_evaluator
from meanflow_core.metrics.features import load_features
from meanflow_core.metrics.frechet import frechet_distance, moments_of


def floor_of(config: EvaluationConfig, dataset: Dataset) -> dict[str, float]:
    """Return each metric of real rows in the place of samples.

    These are the training rows where the reference is held out: what a model scores that copies its training rows.
    Otherwise they are the held-out rows.

    Args:
        config: which metrics; at most `samples` rows are judged.
        dataset: the data.

    Raises:
        DataError: the reference is the training rows, and there are no others.
    """
    evaluator = build_evaluator(config, dataset)
    if "held-out" in dataset.reference_rows:
        count = min(config.samples, len(dataset))
        generator = torch.Generator().manual_seed(config.seed)
        chosen = torch.randperm(len(dataset), generator=generator)[:count]
        x, labels = dataset.batch(chosen, generator=generator)
    else:
        x, labels = dataset.held_out()
        x, labels = x[: config.samples], None if labels is None else labels[: config.samples]
    return evaluator.evaluate(x, labels)


def halves(dataset: Dataset, *, splits: int = 10, seed: int = 0) -> dict[str, Any]:
    """Return the Frechet distance between two disjoint halves of all labelled real rows, each class cut in half.

    Args:
        dataset: its training and held-out rows are pooled.
        splits: number of random cuts.
        seed: of the cuts.

    Returns:
        `mean`, `low` and `high` over the cuts, and `rows`, the size of a half.

    Raises:
        DataError: the data have no held-out rows.
    """
    generator = torch.Generator().manual_seed(seed)
    held, held_labels = dataset.held_out()
    train, train_labels = dataset.batch(torch.arange(len(dataset)), generator=generator)
    space = load_features(None, dataset)
    features = space(torch.cat([train, held]))
    labels = torch.zeros(len(features), dtype=torch.int64)
    if train_labels is not None and held_labels is not None:
        labels = torch.cat([train_labels, held_labels])
    found = []
    for _ in range(splits):
        first = _half_of_each(labels, generator)
        found.append(frechet_distance(moments_of(features[first]), moments_of(features[~first])))
    return {"mean": sum(found) / splits, "low": min(found), "high": max(found), "rows": len(features) // 2}


def _half_of_each(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Mark a random half of each class."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        rows = (labels == label).nonzero().flatten()
        chosen[rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 2]]] = True
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m meanflow_core.metrics.floor", description=__doc__)
    parser.add_argument("config", nargs="?", help="training configuration (default: the digits)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.name=toy2d")
    options = parser.parse_args(arguments)
    words = list(options.overrides)
    if options.config is not None and "=" in options.config:
        words.insert(0, options.config)
        options.config = None
    try:
        config = load_config(options.config or {}, words)
        dataset = build_dataset(config.data)
        result: dict[str, Any] = {"real_rows": floor_of(config.evaluation, dataset)}
        if config.data.name == "digits":
            result["fid_of_halves"] = halves(dataset)
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
