"""The final training: the same trainer at full length, alone or on several workers of Ray Train, shown in MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from meanflow_core.config import TrainConfig, read_yaml
from meanflow_core.errors import ConfigError, Problem, TrainingDiverged
from orchestrator.final.reproduction import Reproduction, compare_curves
from orchestrator.trials import At, best_of, score

Row = tuple[int, dict[str, float]]
DIVERGED = "diverged.json"


class FinalLogger(Protocol):
    """Shows the training; see `orchestrator.tracking.FinalRunLogger`."""

    def report(self, step: int, metrics: Mapping[str, float], images: Mapping[str, str]) -> None:
        """Add metrics and pictures of a step."""
        ...


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """What a final training came to."""

    folder: Path
    steps: int
    metrics: dict[str, float]
    """The last evaluation."""
    picture: Path | None
    """The last grid of one-step samples."""
    reproduction: Reproduction | None
    """None where the configuration carries no trial's curve."""
    curve: dict[int, float]
    """The sweep's metric by step; empty where the configuration carries no evidence."""
    score: float | None
    """What the sweep would judge it by; None without a curve."""
    best_step: int | None
    """Where the sweep judges by the best report, the step of that; the weights are those of the last step."""
    average: str = ""
    """Which weights `weights` are: `ema_0.9999`, or `length_0.12`, chosen at the end (`ema.length`)."""

    @property
    def length(self) -> float | None:
        """The length of the average that was chosen at the end; None: none was."""
        from meanflow_core.training import length_of

        return length_of(self.average)

    @property
    def scores(self) -> dict[str, float]:
        """The last evaluation of `weights`, as `eval/<metric>`."""
        own = f"eval/{self.average}/"
        if self.length is None:
            return {name: value for name, value in self.metrics.items() if name.count("/") == 1}
        return {f"eval/{name.removeprefix(own)}": v for name, v in self.metrics.items() if name.startswith(own)}

    @property
    def weights(self) -> Path:
        """The primary weights, usable alone."""
        return self.folder / "weights.safetensors"


def train_final(
    config: TrainConfig,
    folder: Path,
    *,
    workers: int = 0,
    gpus: float | None = None,
    address: str | None = None,
    logger: FinalLogger | None = None,
    on_row: Callable[[int, Mapping[str, float]], None] | None = None,
) -> FinalResult:
    """Train `config` in `folder`, going on from its last checkpoint.

    Args:
        config: of the training; the curve in its `evidence` is compared with this run's at the same steps.
        folder: config, metrics, checkpoints, weights and pictures; with several nodes on storage that all share.
        workers: 0 trains in this process; more: that many workers of Ray Train, restarted from the last checkpoint
            when one dies.
        gpus: GPUs per worker; None: one where the cluster has any.
        address: of the Ray cluster; None: $RAY_ADDRESS, or this machine.
        logger: shows the training.
        on_row: called with every row of metrics as it is written.

    Raises:
        ConfigError: the folder holds another training.
        TrainingDiverged: see `Trainer.train`.
        RuntimeError: the workers failed too often; the message holds the reason.
    """
    evaluate_at = sorted(_curve(config))
    with _Follower(folder, logger, on_row):
        if is_complete(config, folder):
            pass  # to shake hands with a cluster takes half a minute
        elif workers == 0:
            from meanflow_core.run import train_in_folder

            train_in_folder(config, folder, evaluate_at=evaluate_at)
        else:
            _train_on_ray(config, folder, evaluate_at, workers, gpus, address)
    return result_of(config, folder)


@contextlib.contextmanager
def training_in(folder: Path) -> Iterator[None]:
    """Hold the right to train in a folder; the kernel gives it back when the process dies.

    Raises:
        BlockingIOError: another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "training.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_complete(config: TrainConfig, folder: Path) -> bool:
    """Whether this very training has come to its end in a folder: nothing is left to be done."""
    from meanflow_core.run import RunFolder

    run = RunFolder(folder)
    if run.steps()[-1:] != [config.trainer.steps] or run.differences(config):
        return False
    return run.is_settled(config)


def result_of(config: TrainConfig, folder: Path) -> FinalResult:
    """Read the folder of a training."""
    rows = read_rows(folder / "metrics.jsonl")
    evaluations: dict[int, dict[str, float]] = {}
    for step, row in rows:
        if any(name.startswith("eval/") for name in row):
            evaluations[step] = {**evaluations.get(step, {}), **row}  # the last step has one of lengths too
    last = max(evaluations, default=0)
    metric = str(config.evidence.get("metric", ""))
    curve = {step: row[metric] for step, row in evaluations.items() if metric in row}
    at, goal = At.from_json(config.evidence.get("at")), str(config.evidence.get("goal", "minimize"))
    values = [curve[step] for step in sorted(curve)]
    pictures = sorted(folder.glob("samples-step-*-1nfe.png"), key=lambda path: int(path.name.split("-")[2]))
    return FinalResult(
        folder=folder,
        steps=max((step for step, _ in rows), default=0),
        metrics=evaluations.get(last, {}),
        picture=pictures[-1] if pictures else None,
        reproduction=compare_curves(_curve(config), curve) if _curve(config) else None,
        curve=curve,
        score=score(values, at, goal) if values else None,
        best_step=sorted(curve)[best_of(values, goal)] if values and at.best else None,
        average=_average(folder / "weights.safetensors"),
    )


def _average(weights: Path) -> str:
    """Return the name of the average that a weights file holds; empty where there is none."""
    from meanflow_core.training import load_metadata

    return str(load_metadata(weights)["weights"]) if weights.is_file() else ""


def trainings_of(folder: Path, sweep: str, trials: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield (trial, folder) of the final trainings of a sweep's trials, whether they have ended or not.

    Args:
        folder: of all final trainings of a home.
        sweep: its name.
        trials: the hash of each trial's configuration: an earlier sweep of this name had others.
    """
    for file in sorted(folder.glob("*/config.yaml")):
        evidence = read_yaml(file).content.get("evidence")
        if not isinstance(evidence, dict) or evidence.get("sweep") != sweep:
            continue
        trial = str(evidence.get("trial"))
        if trials.get(trial, "") == evidence.get("trial_config_hash"):
            yield trial, file.parent


def read_rows(file: Path) -> list[Row]:
    """Return the complete rows of a metrics file; none where there is no file yet."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[
        :-1
    ]  # what comes after the last newline is still being written
    return [(int(row.pop("step")), row) for row in map(json.loads, lines)]


def _curve(config: TrainConfig) -> dict[int, float]:
    return {int(step): float(value) for step, value in dict(config.evidence.get("curve", {})).items()}


class _Follower:
    """Follows the metrics file that the training writes, wherever it runs, and passes each row on once.

    The training itself does not use MLflow and never waits for it; a row that was there before a resume is passed on
    again, and the logger keeps each point once.
    """

    def __init__(
        self,
        folder: Path,
        logger: FinalLogger | None,
        on_row: Callable[[int, Mapping[str, float]], None] | None,
        interval: float = 0.5,
    ) -> None:
        self._file, self._folder = folder / "metrics.jsonl", folder
        self._logger, self._on_row, self._interval = logger, on_row, interval
        self._passed: set[tuple[int, frozenset[str]]] = set()
        self._size = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="final-follower", daemon=True)

    def __enter__(self) -> _Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._pass_on()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._pass_on()

    def _pass_on(self) -> None:
        size = self._file.stat().st_size if self._file.exists() else -1
        if size == self._size:
            return
        self._size = size
        for step, values in read_rows(self._file):
            judged, names = any(name.startswith("eval/") for name in values), frozenset(values)
            if (step, names) in self._passed:
                continue
            picture = self._folder / f"samples-step-{step}-1nfe.png"
            self._passed.add((step, names))
            if self._logger is not None:
                self._logger.report(step, values, {"samples": str(picture)} if judged and picture.exists() else {})
            if self._on_row is not None:
                self._on_row(step, values)


def _train_on_ray(
    config: TrainConfig, folder: Path, evaluate_at: list[int], workers: int, gpus: float | None, address: str | None
) -> None:
    # An autoscaler may have to start nodes first, and a busy machine needs minutes; Ray's own patience is one.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from orchestrator.runners import connected
    from orchestrator.worker import torch_config

    options: dict[str, Any] = {} if address is None else {"address": address}
    with connected(folder / "ray.log", **options):
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0  # type: ignore[no-untyped-call]
        if address is None and not os.environ.get("RAY_ADDRESS"):
            check_workers(workers, gpus, ray.cluster_resources())  # type: ignore[no-untyped-call]
        trainer = TorchTrainer(
            _worker,
            torch_config=torch_config(),
            train_loop_config={"config": config.to_dict(), "folder": str(folder), "evaluate_at": evaluate_at},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus > 0 else {})},
            ),
            # Checkpoints are the folder's own; Ray Train only restarts the group, which then resumes from there.
            run_config=RunConfig(
                name=f"{folder.name}-{int(time.time())}",
                storage_path=str(folder / "ray"),
                failure_config=FailureConfig(max_failures=5),
            ),
        )
        (folder / DIVERGED).unlink(missing_ok=True)
        trainer.fit()
    if (folder / DIVERGED).exists():
        raise TrainingDiverged(**json.loads((folder / DIVERGED).read_text()))


def check_workers(workers: int, gpus: float, there: Mapping[str, float]) -> None:
    """Refuse more workers than this machine can run; on a cluster, nodes may still join.

    Raises:
        ConfigError: they do not fit.
    """
    for name, each in (("CPU", 1.0), ("GPU", gpus)):
        if each and workers * each > there.get(name, 0.0) + 1e-6:
            rule = f"each takes {each:g} {name}, and this machine has {there.get(name, 0.0):g}"
            raise ConfigError([Problem(key="--workers", value=workers, rule=rule)])


def _worker(options: dict[str, Any]) -> None:
    """Train as one process of the group that Ray Train has set up."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from meanflow_core.config import load_config
    from meanflow_core.run import train_in_folder

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        train_in_folder(load_config(options["config"]), options["folder"], evaluate_at=options["evaluate_at"])
    except TrainingDiverged as error:  # a result, not a failure of a worker: starting again would diverge again
        facts = {"step": error.step, "reason": error.reason, "last_finite": error.last_finite}
        (Path(options["folder"]) / DIVERGED).write_text(json.dumps(facts))
