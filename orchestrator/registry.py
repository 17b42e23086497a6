"""The final training in MLflow: its run, and its model in the registry, loadable with `mlflow.pyfunc`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.config import TrainConfig
from meanflow_core.errors import ConfigError, Problem
from orchestrator.delivery import Delivery, Sender, metric_name
from orchestrator.events import as_text, experiment_name
from orchestrator.outbox import Outbox
from orchestrator.store import Store, connect
from orchestrator.views import final_description

if TYPE_CHECKING:
    from orchestrator.final import FinalResult

FINAL = "final"
"""Key of the run in the training's own outbox."""
WEIGHTS = "weights.safetensors"


class FinalRunLogger:
    """Shows a final training, through an outbox in its folder: training waits for no server.

    Args:
        folder: of the training; the outbox is in it, so that a resumed training goes on with its run.
        store: where to send.
        name: of the training.
        config: of the training; its evidence links the run to the sweep.
    """

    def __init__(self, folder: Path, store: Store, *, name: str, config: TrainConfig) -> None:
        self.outbox = Outbox(folder / "outbox", write=True)
        self._sender = Sender(Delivery(self.outbox, store))
        evidence = config.evidence
        experiment = experiment_name(str(evidence.get("sweep", name)))
        self.outbox.append_once(FINAL, "run", "run", 0, {"name": f"final {name}", "experiment": experiment, "tags": {}})
        params = {key: as_text(value) for key, value in _flat(config.to_dict()).items() if value is not None}
        self.outbox.append_once(FINAL, "params", "params", 0, {"params": params})
        tags = {
            "meansweep.kind": "final",
            "meansweep.training": name,
            "meansweep.sweep": str(evidence.get("sweep", "")),
            "meansweep.trial": str(evidence.get("trial", "")),
            "meansweep.config_hash": config.hash(),
            "mlflow.note.content": final_description(evidence, config.trainer.steps),
        }
        self.outbox.append(FINAL, "tags", {"tags": {key: value for key, value in tags.items() if value}})
        self.outbox.append(FINAL, "text", {"file": "config.yaml", "text": config.to_yaml()})
        self.outbox.append(FINAL, "status", {"status": "RUNNING"})
        self._sender.start()

    def report(self, step: int, metrics: Mapping[str, float], images: Mapping[str, str]) -> None:
        """Add metrics and pictures (path by name) of a step; what was added before is kept once."""
        self.outbox.append_points(FINAL, [(step, {metric_name(k): float(v) for k, v in metrics.items()})])
        for key, path in images.items():
            self.outbox.append_once(FINAL, "image", metric_name(key), step, {"path": path})

    def ended(self, state: str) -> None:
        """Close the run: `finished`, `failed` or `interrupted`."""
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
        self.outbox.append(FINAL, "status", {"status": status})

    def close(self, timeout: float = 60.0) -> int:
        """Stop; wait at most `timeout` seconds for what is still to be sent. Returns the number of records left."""
        left = self._sender.close(timeout)
        if not self._sender.is_alive():
            self.outbox.close()
        return left


def register_model(store: Store, *, name: str, result: FinalResult, config: TrainConfig) -> str:
    """Put the weights of a finished training into MLflow's registry, as a model that samples in one step.

    Args:
        store: the registry's store.
        name: of the registered model.
        result: the training.
        config: of the training.

    Returns:
        The model's address, `models:/NAME/VERSION`.
    """
    client = connect(store)
    import mlflow
    from mlflow.models import infer_signature

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # MLflow's remarks on its own type hints
        import mlflow.pyfunc

        from orchestrator.pyfunc_model import example_of

    mlflow.set_tracking_uri(store.uri)
    run_id = Delivery(Outbox(result.folder / "outbox"), store).sent.runs.get(FINAL)
    asked, given = example_of(result.weights)
    evidence = config.evidence
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)  # and on the example
    with quiet, mlflow.start_run(run_id=run_id) if run_id else mlflow.start_run(run_name=f"final {name}"):
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"weights": str(result.weights)},
            signature=infer_signature(asked, given),
            input_example=asked,
            pip_requirements=["meansweep"],  # the network's code; it is not on every index, so it is not installed here
            registered_model_name=name,
        )
    version = str(info.registered_model_version)
    tags = {"sweep": evidence.get("sweep"), "trial": evidence.get("trial"), "config_hash": config.hash()}
    for key, value in tags.items():
        if value:
            client.set_model_version_tag(name, version, f"meansweep.{key}", str(value))
    return f"models:/{name}/{version}"


def resolve(store: Store, address: str) -> Path:
    """Return the weights file of a registered model, fetched from the store where it is not on this machine.

    Raises:
        ConfigError: there is no such model, or it is none of this package.
    """
    connect(store)
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(store.uri)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=address))
    except MlflowException as error:
        rule = f"cannot be fetched from {store.name}: {error.message}"
        raise ConfigError([Problem(key="MODEL", value=address, rule=rule)]) from error
    found = sorted(folder.rglob(WEIGHTS))
    if not found:
        raise ConfigError(
            [Problem(key="MODEL", value=address, rule=f"holds no {WEIGHTS}; it is no model of meansweep")]
        )
    return found[0]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if key == "evidence" and not prefix:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
