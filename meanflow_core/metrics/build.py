"""From the evaluation's configuration to an evaluator: which metrics, in which features, against which reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from meanflow_core.config import EvaluationConfig, bare_name, import_named, is_named
from meanflow_core.data import Dataset, usual_metrics
from meanflow_core.errors import ConfigError, Problem, nearest
from meanflow_core.metrics.features import DigitsFeatures, Features, load_features
from meanflow_core.metrics.frechet import Moments, frechet_distance, moments_of, moments_of_shares
from meanflow_core.metrics.mmd import mmd
from meanflow_core.metrics.precision_recall import precision_recall
from meanflow_core.metrics.reference import Reference, read_moments, reference_of
from meanflow_core.metrics.transport import sliced_wasserstein, wasserstein


@dataclass(frozen=True)
class EvaluationBatch:
    """Samples as the metrics see them."""

    features: Tensor
    """Float32 [n, d] on the CPU."""
    labels: Tensor | None
    """The labels the samples were asked for, int64 [n]."""
    reference: Reference
    space: Features
    samples: Tensor | None = None
    """The samples themselves, float32 [n, *shape] on the CPU."""
    condition: Tensor | None = None
    """The conditions they were asked for, [n, ...], of data with conditions."""
    total: Callable[[Tensor], Tensor] | None = None
    """Where these samples are one process's share: returns the sum of a tensor over the processes."""

    @property
    def rows(self) -> Tensor:
        """Features of real rows."""
        if self.reference.rows is None:
            raise ValueError("this reference holds moments alone")
        return self.reference.rows

    @cached_property
    def overlap(self) -> tuple[float, float]:
        """Precision and recall, computed together."""
        return precision_recall(self.features, self.rows)

    @property
    def moments(self) -> Moments:
        """Of the features of all samples, also those of other processes."""
        return moments_of(self.features) if self.total is None else moments_of_shares(self.features, self.total)

    @property
    def accuracy(self) -> float:
        """Share of samples that the classifier gives the label they were asked for."""
        if self.labels is None or not isinstance(self.space, DigitsFeatures):
            raise ValueError("accuracy needs labels and a classifier")
        right = (self.space.classify(self.features) == self.labels.cpu()).double()
        if self.total is None:
            return right.mean().item()
        found, count = self.total(torch.stack([right.sum(), torch.tensor(float(len(right)), dtype=right.dtype)]))
        return float(found / count)


METRICS: dict[str, Callable[[EvaluationBatch], float]] = {
    "fid": lambda batch: frechet_distance(batch.moments, batch.reference.moments),
    "accuracy": lambda batch: batch.accuracy,
    "precision": lambda batch: batch.overlap[0],
    "recall": lambda batch: batch.overlap[1],
    "wasserstein": lambda batch: wasserstein(batch.features, batch.rows),
    "sliced_wasserstein": lambda batch: sliced_wasserstein(batch.features, batch.rows),
    "mmd": lambda batch: mmd(batch.features, batch.rows),
}
"""Every metric by its name. A new one is one line here: a function of `EvaluationBatch`."""

HIGHER_IS_BETTER = {"accuracy", "precision", "recall"}
"""Of the others, lower is."""

MOMENTS_SUFFICE = {"fid", "accuracy"}


def default_metrics(dataset: Dataset, features: str | None = None) -> list[str]:
    """Return the metrics a data set has where the configuration names none."""
    vae = getattr(dataset, "vae_path", None)
    return list(usual_metrics(dataset.name.partition("-")[0], vae, features))


class Evaluator:
    """Judges samples. Picklable, and shared by all trials of a node.

    Args:
        config: which metrics, features and reference.
        metrics: names, all known and all possible with the features and the reference.
        features: the space.
        reference: the real data's statistics.
        dataset: that the samples imitate; only its identity is kept.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        metrics: list[str],
        features: Features,
        reference: Reference,
        dataset: Dataset,
    ) -> None:
        self.metrics = metrics
        self.higher = frozenset(bare_name(name) for name in metrics if higher_is_better(name))
        """Metrics whose larger values are better, by their bare names."""
        self._features, self._reference = features, reference
        self._condition = getattr(dataset, "condition", None)
        self._record = {
            "samples": config.samples,
            "labels": config.labels if dataset.num_classes is not None else None,
            "metrics": list(metrics),
            "features": features.identity,
            "reference": reference.source,
            "reference_count": reference.moments.count,
            "data_fingerprint": dataset.fingerprint,
        }

    @property
    def sums_suffice(self) -> bool:
        """Whether every metric can be had from sums over shares of the samples, without all of them in one place."""
        return set(self.metrics) <= MOMENTS_SUFFICE

    def evaluate(
        self, samples: Tensor, labels: Tensor | None, total: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, float]:
        """Return each metric of samples [n, *shape] by its bare name.

        Args:
            samples: finite, scaled as the data are.
            labels: what they were asked for, int64 [n] or with conditions [n, 3 + K], or None.
            total: where these samples are one process's share (and `sums_suffice`): returns the sum of a tensor over
                the processes. Each of them then gets the metrics of all samples.

        Raises:
            FloatingPointError: a feature or a metric is not finite.
        """
        classes, condition = labels, None
        if labels is not None and labels.dim() == 2 and self._condition is not None:
            classes, _, _, condition = self._condition.unpack(labels)
        rows = samples.detach().float().cpu()
        judged = EvaluationBatch(
            self._features(samples), classes, self._reference, self._features, rows, condition, total
        )
        bad = (~judged.features.isfinite()).any().double()
        if bad if total is None else total(bad):
            raise FloatingPointError("the features of the samples are not finite")
        values = {bare_name(name): _judge(name, judged) for name in self.metrics}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the metric {name} is {value}")
        return values

    def record(self) -> dict[str, Any]:
        """Return what a figure must be read with: sample count, label rule, features, reference, data."""
        return copy.deepcopy(self._record)


def _judge(name: str, judged: EvaluationBatch) -> float:
    """Compute one metric, of the package or of the user's own."""
    if not is_named(name):
        return METRICS[name](judged)
    value = import_named(name, "evaluation.metrics")(judged)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        rule = f"must return a number, and returned a {type(value).__name__}"
        raise ConfigError([Problem(key="evaluation.metrics", value=name, rule=rule)]) from error


def higher_is_better(name: str) -> bool:
    """Whether larger values of a metric are better; a function of the user's own says so by that attribute."""
    if is_named(name):
        return bool(getattr(import_named(name, "evaluation.metrics"), "higher_is_better", False))
    return name in HIGHER_IS_BETTER


def build_evaluator(config: EvaluationConfig, dataset: Dataset) -> Evaluator:
    """Load the features and compute (or read) the reference statistics.

    Raises:
        ConfigError: an unknown metric, or one that these data, features or this reference cannot give.
    """
    metrics = default_metrics(dataset, config.features) if config.metrics is None else list(config.metrics)
    problems = [
        Problem(
            key="evaluation.metrics",
            value=name,
            rule=f"unknown metric; known: {', '.join(METRICS)}, and package.module:function",
            nearest=nearest(name, list(METRICS)),
        )
        for name in metrics
        if name not in METRICS and not is_named(name)
    ]
    for name in metrics:
        if is_named(name):
            import_named(name, "evaluation.metrics")
    if problems:
        raise ConfigError(problems)
    features = load_features(config.features, dataset, metrics)
    if "accuracy" in metrics and (dataset.num_classes is None or not isinstance(features, DigitsFeatures)):
        rule = "accuracy needs labelled data with a classifier of its own (digits, mnist) and no `evaluation.features`"
        raise ConfigError([Problem(key="evaluation.metrics", value="accuracy", rule=rule)])
    return Evaluator(config, metrics, features, _reference(config, dataset, metrics, features), dataset)


def _reference(config: EvaluationConfig, dataset: Dataset, metrics: list[str], features: Features) -> Reference:
    needy = [name for name in metrics if name not in MOMENTS_SUFFICE and not (is_named(name) and config.reference)]
    if config.reference is None:
        reference = reference_of(dataset, features)
        return reference if needy else replace(reference, rows=None)  # every trial gets a copy of the evaluator
    reference = read_moments(config.reference)
    if (check := getattr(dataset, "check", None)) is not None:
        check()  # no pass over the data finds its broken files
    if needy:
        rule = f"holds moments alone, which {', '.join(needy)} cannot be computed from; leave one of the two out"
        raise ConfigError([Problem(key="evaluation.reference", value=config.reference, rule=rule)])
    size = features(next(iter(dataset.reference()))[:2]).shape[1]
    if size != len(reference.moments.mean):
        rule = f"has {len(reference.moments.mean)} features, but the feature network gives {size}"
        raise ConfigError([Problem(key="evaluation.reference", value=config.reference, rule=rule)])
    return reference
