"""The training of one MeanFlow model: the loop, its evaluation, and everything needed to go on later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from meanflow_core.config import TrainConfig, load_config
from meanflow_core.derivative import record as derivative_record
from meanflow_core.distributed import World, choose_device
from meanflow_core.errors import TrainingDiverged
from meanflow_core.flow import ConditionSpec
from meanflow_core.metrics import by_scale
from meanflow_core.nets import build_net, fitted
from meanflow_core.rng import seeded
from meanflow_core.sampling import Sampling, asked_for, guidance_scale, image_grid
from meanflow_core.training.batches import Batches
from meanflow_core.training.checkpoint import CheckpointError, save_weights
from meanflow_core.training.device_metrics import device_metrics
from meanflow_core.training.ema import EMA
from meanflow_core.training.evaluation import judge
from meanflow_core.training.graphs import compile_if_wanted
from meanflow_core.training.meters import Meter
from meanflow_core.training.optim import Optimizer
from meanflow_core.training.precision import in_its_precision
from meanflow_core.training.sharding import shard
from meanflow_core.training.shared_data import SharedData, as_given, fitting, load_shared
from meanflow_core.training.teacher import Teacher
from meanflow_core.training.training_loss import SUMS, TrainingLoss
from meanflow_core.training.weights import Weights

Row = tuple[int, dict[str, float]]


class Trainer:
    """Train, evaluate and sample one model.

    Equal configurations give equal results on a CPU, however the run is cut into calls, processes and resumes: all
    randomness is a function of (seed, step). In a process group every process makes one, and calls the same methods.

    Args:
        config: the training configuration, or nested values of one.
        net: a network of your own, u = net(z, r, t, labels), with the weights it has; None: that of `config.model`.
        data: of your own: a tensor [N, ...], (x, labels), (x, labels, condition), or a torch Dataset.
        shared: of `shared_data`, where it was made already; not looked at where `data` is given.
        on_log: called with (step, metrics) for each logged row, in the first process only.

    Raises:
        ConfigError: the configuration is wrong.
        ValueError: `trainer.device` is not there.
    """

    evaluation_changes_state = False
    """So a sweep may write a checkpoint while the weights are judged."""

    def __init__(
        self,
        config: TrainConfig | Mapping[str, Any],
        *,
        net: nn.Module | None = None,
        data: Any = None,
        shared: SharedData | None = None,
        on_log: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self.config = as_given(config if isinstance(config, TrainConfig) else load_config(config), net, data)
        self._given = net is not None
        self.world = World.current()
        self.device = choose_device(self.config.trainer.device)
        self.shared = fitting(self.config, shared, data)
        self.dataset = self.shared.dataset
        self.step = 0
        """Optimiser steps done."""
        self.images_seen = 0
        """Training rows seen, which is also the position in the data."""
        self._on_log = on_log
        self._condition: ConditionSpec | None = getattr(self.dataset, "condition", None)
        with seeded(self.config.seed, "weights"):
            shape, classes, told = self.dataset.shape, self.dataset.num_classes, self.config.objective.guidance.input
            if net is None:
                net = build_net(self.config.model, shape, classes, guided=told, condition=self._condition)
            else:
                net = fitted(net, type(net).__name__, classes, guided=told, condition=self._condition)
            self.net = net.to(self.device)
        options, decay = self.config.trainer, self.config.objective.teacher
        self._teacher = None if decay is None else Teacher(self.net, decay, self.config.ema.rampup)
        self._plain_loss = loss = TrainingLoss(
            self.net,
            self.config.objective,
            self.dataset.num_classes if self._condition is None else self.dataset.num_classes or 0,
            options.precision,
            None if self._teacher is None else self._teacher.net,
        )
        compile_if_wanted(loss, self.config, self.dataset.shape, self.device)
        self._batches = Batches(self.config, self.dataset, self.device, self.world)
        self.collective = options.sharding == "fsdp" and self.world.size > 1  # each calls what reads or writes weights
        shards = shard(loss, self._batches, self.world, self.device) if self.collective else None
        self._loss: nn.Module = loss if self.collective else self.world.wrap(loss, self.device)
        self._optimizer = Optimizer(self.net, self.config.optimizer, options.steps, shards)
        self._ema = EMA(self.net, self.config.ema, shards)
        self._weights = Weights(self.net, self._ema, self.config.ema, shards)
        self._meter = Meter(options.batch_size, self._batches.spanning, self.world, self.device)

    @classmethod
    def shared_data(cls, config: TrainConfig | Mapping[str, Any]) -> SharedData:
        """Load the data and the reference statistics: picklable, for every trainer of a node that uses the same."""
        return load_shared(config if isinstance(config, TrainConfig) else load_config(config))

    @property
    def fingerprint(self) -> str:
        """The hash of the training data."""
        return self.dataset.fingerprint

    # ------------------------------------------------------------------------------------------- training

    @in_its_precision
    def train(self, steps: int) -> list[Row]:
        """Train `steps` further steps.

        Returns:
            (step, metrics) at every multiple of `trainer.log_every`, and at the end: means since the row before.

        Raises:
            TrainingDiverged: the loss or gradient is not finite, or the loss exploded. The weights are those of the
                last finite update.
        """
        rows: list[Row] = []
        self.net.train()
        self._meter.restart()
        for done in range(1, steps + 1):
            self._train_step()
            if self.step % self.config.trainer.log_every == 0 or done == steps:
                row = self._meter.row(self.step)
                row["train/lr"] = self._optimizer.lr
                row["train/images_seen"] = self.images_seen
                row |= device_metrics(self.device)
                rows.append((self.step, row))
                if self._on_log is not None and self.world.first:
                    self._on_log(self.step, row)
        return rows

    def _train_step(self) -> None:
        parts = list(self._batches.parts(self.step, self.images_seen))
        own = self._plain_loss.diagnostics(parts[0].split)
        loss, sums = torch.zeros((), device=self.device), torch.zeros(len(SUMS) + len(own), device=self.device)
        if self.config.trainer.compile:
            self._plain_loss.examine(parts)
        with self._plain_loss.weights_cast_once():
            for index, part in enumerate(parts):
                with self._synchronising(index == len(parts) - 1), self._draws_seeded(index):
                    part_loss, part_sums = self._loss(part)
                    (part_loss / len(parts)).backward()
                loss += part_loss.detach() / self._batches.count
                sums += part_sums
        norm = self._optimizer.step(self.step)
        self._optimizer.zero_grad()
        self.step += 1
        self.images_seen += self._batches.size
        self._meter.add(self.step, loss, sums, norm, own)
        self._ema.update(self.net, self.step)
        if self._teacher is not None:
            self._teacher.update(self.net, self.step)

    def derivative_record(self) -> list[str]:
        """Return how du/dt was had and why, a line for each mode in which the network was trained."""
        return derivative_record(self.net)

    def _synchronising(self, last: bool) -> AbstractContextManager[None]:
        """Average the gradients over the processes once a step: in the backward pass of the last part."""
        if last or not isinstance(self._loss, DistributedDataParallel):
            return nullcontext()
        return self._loss.no_sync()

    def _draws_seeded(self, index: int) -> AbstractContextManager[None]:
        """Make what the network draws from the global generators a function of (seed, step, part)."""
        part = self.world.rank + index * self.world.size
        return seeded(self.config.seed, "dropout", self.step, part, device=self.device)

    # ----------------------------------------------------------------------------------------- evaluation

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return every set of weights by name, the primary one first: the first EMA, or `raw` if there is none."""
        return {name: self._weights.whole(name) for name in self._weights.live()}

    def use_average(self, weights: Mapping[str, Tensor]) -> None:
        """Let the primary weights have these values: an average made afterwards, to be sampled and judged."""
        self._weights.use(weights)

    @in_its_precision
    def evaluate(self, sets: Mapping[str, dict[str, Tensor]] | None = None) -> dict[str, float]:
        """Judge samples of every set of weights, from fixed noise and labels.

        Args:
            sets: other sets to judge instead, by name; none of them is primary.

        Returns:
            `eval/<metric>_<n>nfe` of the primary weights, `eval/<set>/<metric>_<n>nfe` of the others. Where guidance is
            an input, `..._w<scale>` of each scale in `evaluation.guidance`, and `eval/best_<metric>_<n>nfe` with its
            scale, `eval/best_<metric>_<n>nfe_w`.

        Raises:
            TrainingDiverged: samples, their features or a metric are not finite.
        """
        result: dict[str, float] = {}
        sampling, evaluator = Sampling(self.config, self.dataset, self.world, self.device), self.shared.evaluator
        scales: Sequence[float | None] = self.config.evaluation.guidance or (None,)
        for index, name in enumerate(sets or self._weights.live()):
            weights = sets[name] if sets else self._weights.whole(name)
            prefix = "eval/" if index == 0 and sets is None else f"eval/{name}/"
            for nfe in self.config.evaluation.nfe:
                judged: dict[float | None, dict[str, float]] = {}
                for scale in scales:
                    try:
                        judged[scale] = judge(sampling, evaluator, self._weights.structure, weights, nfe, scale)
                    except FloatingPointError as error:
                        raise TrainingDiverged(self.step, f"{name}: {error}", self._meter.last_finite) from error
                result |= {
                    prefix + key: value for key, value in by_scale(judged, f"{nfe}nfe", evaluator.higher).items()
                }
        return result

    def evaluation_record(self) -> dict[str, Any]:
        """Return the protocol of `evaluate`: without it a Frechet distance means nothing."""
        evaluation = self.config.evaluation
        return {
            "samples": evaluation.samples,
            "nfe": list(evaluation.nfe),
            **({"guidance": list(evaluation.guidance)} if evaluation.guidance else {}),
            "labels": evaluation.labels if self.dataset.num_classes is not None else None,
            "noise_seed": evaluation.seed,
            "weights": list(self._weights.live()),
            "precision": self.config.trainer.precision,
            "data": {"name": self.dataset.name, "fingerprint": self.fingerprint},
            **self.shared.evaluator.record(),
            "derivative": self.derivative_record(),
        }

    @in_its_precision
    def sample_grid(self, nfe: int = 1, guidance: float | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return a picture [H, W, 3] of samples of the primary weights from fixed noise; a row is a class.

        Args:
            nfe: number of function evaluations.
            guidance: the scale, of a network that takes it as an input; None: the first of `evaluation.guidance`.
        """
        sampling = Sampling(self.config, self.dataset, self.world, self.device)
        noise, labels, columns = sampling.grid_inputs()
        scale, net = guidance_scale(self.config, guidance, "guidance"), self._weights.structure
        samples = sampling.run(net, self._weights.whole(), noise, labels, nfe, scale)
        return image_grid(self.dataset.to_images(samples), columns)

    @in_its_precision
    def sample(
        self,
        n: int,
        *,
        nfe: int = 1,
        labels: int | Sequence[int] | Tensor | None = None,
        condition: Tensor | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Return n samples of the primary weights, float32 [n, *shape] on the CPU.

        Args:
            n: how many.
            nfe: number of function evaluations.
            labels: one class for all, or n classes; None: every class in turn.
            condition: one for all, or n [n, ...], of data with conditions; None: those of rows of the data.
            guidance: the scale, of a network that takes it as an input; None: the first of `evaluation.guidance`.
            seed: of the noise. Sample i of a seed is the same for any n.

        Raises:
            ConfigError: the network takes no scale.
            ValueError: labels or a condition that the model does not have, or not n of them.
        """
        told = asked_for(self.dataset, n, labels, condition)
        scale = guidance_scale(self.config, guidance, "guidance")
        sampling = Sampling(self.config, self.dataset, self.world, self.device)
        return sampling.of(self._weights.structure, self._weights.whole(), n, told, nfe, scale, seed)

    # ---------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on: live tensors (copy or save them before training on) and plain values.

        No state of a random generator is in it: the step and the seed say it all. Of a network in shards the first
        process gets whole tensors, on the CPU, and the others none; each may load them.
        """
        return {
            "config": self.config.to_dict(),
            "fingerprint": self.fingerprint,
            "step": self.step,
            "images_seen": self.images_seen,
            **self._weights.state_dict(self._optimizer),
            **({} if self._teacher is None else {"teacher": self._teacher.state_dict()}),
            "last_finite": dict(self._meter.last_finite),
            "least_errors": dict(self._meter.least),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, on any number of processes. The configuration stays this trainer's own.

        Raises:
            CheckpointError: the state is of another network, other averages, or other data.
        """
        if state.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"the state was trained on other data (fingerprint {state.get('fingerprint')}, here {self.fingerprint})"
            )
        try:
            self._weights.load_state_dict(state, self._optimizer)
            if self._teacher is not None:  # of a state without one (another objective's, in PBT) the network teaches
                self._teacher.load_state_dict(state.get("teacher", state["net"]))
            self.step, self.images_seen = int(state["step"]), int(state["images_seen"])
            self._meter.last_finite = dict(state["last_finite"])
            self._meter.least = dict(state["least_errors"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the state does not fit this configuration: {error}") from error

    def export(self, path: Path | str, name: str | None = None) -> None:
        """Write one set of weights as a safetensors file that stands alone: `load_network` rebuilds the network.

        Args:
            path: of the file.
            name: of the set, as in `weights`; None: the primary one.
        """
        save_weights(path, *self.exported(name))

    def exported(self, name: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `export` writes: the live tensors of a set of weights, and the metadata."""
        name = next(iter(self._weights.live())) if name is None else name
        metadata = {
            "config": self.config.to_dict(),
            "weights": name,
            "step": self.step,
            "shape": list(self.dataset.shape),
            "num_classes": self.dataset.num_classes,
            **({} if self._condition is None else {"condition": self._condition.to_dict()}),
            **({"given": True} if self._given else {}),
            "fingerprint": self.fingerprint,
            "derivative": self.derivative_record(),
        }
        return self._weights.whole(name), metadata
