"""The final training in MLflow: its run beside the sweep's trials, and its model in the registry."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.paths import Home
from orchestrator.tracking import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    Delivery,
    Outbox,
    RunWriter,
    Sender,
    Sent,
    Store,
    connect,
    final_description,
    run_ids,
    without_password,
)

if TYPE_CHECKING:
    from meanflow_core.config import TrainConfig
    from orchestrator.final.training import FinalResult

FINAL = "final"
WEIGHTS_TAG = "meansweep.weights_sha256"
MODEL_FOLDER = "model"

log = logging.getLogger(__name__)


class FinalRunLogger:
    """Shows a final training in MLflow, nested under its sweep's run. As a sweep's tracker: never waits, loses nothing.

    Args:
        folder: of the training, `HOME/final/NAME`; the outbox is in it.
        store: where to.
        name: of the training.
        config: its configuration, with the evidence for it.
        interval: seconds between deliveries.
    """

    def __init__(self, folder: Path, store: Store, *, name: str, config: TrainConfig, interval: float = 1.0) -> None:
        self._outbox = Outbox(folder / "outbox", write=True)
        self._run = RunWriter(self._outbox, FINAL)
        evidence = config.evidence
        sweep, trial = str(evidence.get("sweep", "")), str(evidence.get("trial", ""))
        params, parent = _origin(Home(folder.parents[1]), sweep, trial, store)
        self._run.begin(f"final {name}", sweep or "final", parent_id=parent)
        self._run.params({**params, "seed": str(config.seed), "trainer.steps": str(config.trainer.steps)})
        environment = evidence.get("environment") or {}
        self._run.common_tags(sweep, "final", f"meansweep train {name}", environment)
        self._run.tags(
            {
                "meansweep.trial": trial,
                "meansweep.config_hash": config.hash(),
                "meansweep.state": "running",
                "mlflow.note.content": final_description(evidence, config.trainer.steps),
            }
        )
        self._run.text("config.yaml", config.to_yaml())
        self._run.dataset(config.to_dict()["data"], str(environment.get("data", "")).rpartition(":")[2])
        self._run.set_status(RUNNING)
        self._sender = Sender(Delivery(self._outbox, store), interval=interval)
        self._sender.start()

    def report(self, step: int, metrics: Mapping[str, float], images: Mapping[str, str]) -> None:
        """Add metrics and pictures of a step; what was shown before a resume is not shown again."""
        self._run.points([(step, metrics)])
        self._run.images(step, images)

    def ended(self, state: str, reason: str = "") -> None:
        """Close the run.

        Args:
            state: `finished`, `failed` or `interrupted`; the next run of the same training goes on with it.
            reason: why.
        """
        self._run.tags({"meansweep.state": state, "meansweep.reason": reason})
        self._run.set_status({"finished": FINISHED, "failed": FAILED}.get(state, KILLED))

    def close(self, timeout: float = 30.0) -> int:
        """Stop; wait at most `timeout` seconds for what is to be sent. Returns the number of records left."""
        left = self._sender.close(timeout)
        if not self._sender.is_alive():
            self._outbox.close()
        return left


def _origin(home: Home, sweep: str, trial: str, store: Store) -> tuple[dict[str, str], str | None]:
    """Return the parameters that the sweep showed for a trial, and the id of the sweep's run in the store."""
    if not sweep:
        return {}, None
    paths = home.sweep(sweep)
    try:
        records = Outbox(paths.outbox).records()
    except FileNotFoundError:  # the configuration has come from elsewhere
        return {}, None
    shown = (record.data["params"] for record in records if (record.run, record.what) == (trial, "params"))
    return dict(next(shown, {})), run_ids(paths, store).get("sweep")


def register_model(store: Store, *, name: str, result: FinalResult, config: TrainConfig) -> str | None:
    """Put a trained model into MLflow's registry, with its signature, an example and its code.

    The same weights are registered once: registering them again returns the version they have.

    Args:
        store: where.
        name: of the model.
        result: of the training; its folder holds the outbox of its run.
        config: that it was trained with.

    Returns:
        `models:/NAME/VERSION`, or None where the store cannot be reached; the same training, run again, registers it.
    """
    try:
        return _register(store, name, result, config)
    except Exception as error:
        log.warning("the model could not be registered in %s: %s", store.name, without_password(str(error)))
        return None


def _register(store: Store, name: str, result: FinalResult, config: TrainConfig) -> str:
    client = connect(store)
    digest = hashlib.sha256(result.weights.read_bytes()).hexdigest()
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(WEIGHTS_TAG) == digest:
            return f"models:/{name}/{version.version}"
    run_id = Sent.load(result.folder / "outbox", store).runs.get(FINAL)
    if run_id is None:
        raise ConnectionError("its run has not been sent yet")
    with tempfile.TemporaryDirectory() as folder:
        _save_model(Path(folder) / MODEL_FOLDER, result.weights)
        client.log_artifacts(run_id, str(Path(folder) / MODEL_FOLDER), MODEL_FOLDER)
    evidence = config.evidence
    tags = {
        WEIGHTS_TAG: digest,
        "meansweep.sweep": str(evidence.get("sweep", "")),
        "meansweep.trial": str(evidence.get("trial", "")),
        "meansweep.steps": str(result.steps),
        "meansweep.config_hash": config.hash(),
        **{key: f"{value:.6g}" for key, value in result.metrics.items() if key.count("/") == 1},
    }
    if not client.search_registered_models(f"name = '{name}'"):
        command = f"meansweep sample models:/{name}/latest -n 100 --nfe 1,2 -o samples.png"
        about = f"MeanFlow: samples in one evaluation of the network.\n\n```\n{command}\n```"
        client.create_registered_model(name, description=about)
    version = client.create_model_version(
        name,
        source=f"{client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}",
        run_id=run_id,
        tags={key: value for key, value in tags.items() if value},
        description=final_description(evidence, result.steps),
    )
    return f"models:/{name}/{version.version}"


def _save_model(path: Path, weights: Path) -> None:
    """Write the model in MLflow's format: the weights, the code that samples, the signature and an example."""
    import numpy as np
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about type hints of its own
        import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    import meanflow_core
    from meanflow_core.training import load_weights

    _, metadata = load_weights(weights)
    shape, classes = tuple(metadata["shape"]), metadata["num_classes"]
    picture = len(shape) == 3 and shape[0] in (1, 3)
    inputs: list[ColSpec | TensorSpec] = [ColSpec("long", "seed", required=False)]
    if classes is not None:
        inputs.insert(0, ColSpec("long", "label", required=False))
    kind, ends = (np.uint8, (*shape[1:], 3)) if picture else (np.float32, shape)
    rows = min(classes or 4, 10)
    example = pd.DataFrame({"label": range(rows), "seed": 0} if classes is not None else {"seed": [0] * rows})
    mlflow.pyfunc.save_model(
        path=str(path),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"weights": str(weights)},
        code_paths=[str(Path(meanflow_core.__file__).parent)],
        signature=ModelSignature(
            inputs=Schema(inputs),
            outputs=Schema([TensorSpec(np.dtype(kind), (-1, *ends))]),
            params=ParamSchema([ParamSpec("nfe", "long", 1)]),
        ),
        input_example=(example, {"nfe": 1}),
        pip_requirements=["torch", "numpy", "omegaconf", "safetensors", "pyyaml", "mlflow"],
    )


def resolve(store: Store, address: str) -> Path:
    """Return the weights file behind `models:/NAME/VERSION`, `models:/NAME/latest` or `models:/NAME@ALIAS`.

    Raises:
        ConfigError: there is no such model, or it is not one of ours.
        ConnectionError: the store cannot be reached.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:/([^/@]+)|@([^/@]+))?", address)
    if match is None:
        raise _unknown(address, "must look like models:/NAME/VERSION, models:/NAME/latest or models:/NAME@ALIAS")
    name, version, alias = match.groups()
    client = connect(store)
    try:
        versions = client.search_model_versions(f"name = '{name}'")
        if not versions:
            known = sorted(model.name for model in client.search_registered_models(max_results=100))
            raise _unknown(
                address, f"no such model in {store.name}" + (f"; there is {', '.join(known)}" if known else "")
            )
        chosen = _version(client, name, version, alias, versions)
        if chosen is None:
            numbers = ", ".join(sorted((str(each.version) for each in versions), key=int))
            raise _unknown(address, f"no such version; there is {numbers}")
        if WEIGHTS_TAG not in chosen.tags:
            raise _unknown(address, "is no MeanFlow model of `meansweep train`")
        return Path(client.download_artifacts(chosen.run_id, f"{MODEL_FOLDER}/artifacts/weights.safetensors"))
    except ConfigError:
        raise
    except Exception as error:
        raise ConnectionError(f"{store.name}: {without_password(str(error))}") from error


def _version(client: Any, name: str, version: str | None, alias: str | None, versions: list[Any]) -> Any:
    if alias is not None:
        number = str(client.get_registered_model(name).aliases.get(alias))
        return next((each for each in versions if str(each.version) == number), None)
    if version in (None, "latest"):
        return max(versions, key=lambda each: int(each.version))
    return next((each for each in versions if str(each.version) == version), None)


def _unknown(address: str, rule: str) -> ConfigError:
    return ConfigError([Problem(key="MODEL", value=address, rule=rule)])
