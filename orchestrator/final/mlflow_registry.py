"""A trained model in MLflow's registry: put there with its signature and its code, and found again by its address."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.credentials import without_password
from orchestrator.tracking import Store, connect, final_description, final_run_id, share_file

if TYPE_CHECKING:
    from meanflow_core.config import TrainConfig
    from orchestrator.final.training import FinalResult

WEIGHTS_TAG = "meansweep.weights_sha256"
MODEL_FOLDER = "model"
WEIGHTS = "artifacts/weights.safetensors"
"""Where MLflow puts the weights in a model's folder."""

log = logging.getLogger(__name__)


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
    run_id = final_run_id(result.folder, store)
    if run_id is None:
        raise ConnectionError("its run has not been sent yet")
    with tempfile.TemporaryDirectory() as folder:
        _save_model(Path(folder) / MODEL_FOLDER, result.weights)
        client.log_artifacts(run_id, str(Path(folder) / MODEL_FOLDER), MODEL_FOLDER)
    share_file(store, client.get_run(run_id), result.weights, f"{MODEL_FOLDER}/{WEIGHTS}")
    evidence = config.evidence
    tags = {
        WEIGHTS_TAG: digest,
        "meansweep.sweep": str(evidence.get("sweep", "")),
        "meansweep.trial": str(evidence.get("trial", "")),
        "meansweep.steps": str(result.steps),
        "meansweep.config_hash": config.hash(),
        "meansweep.average": result.average,
        **{key: f"{value:.6g}" for key, value in result.scores.items()},
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
        description=final_description(evidence, result.steps, result.length),
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
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    import meanflow_core
    from meanflow_core.config import load_config
    from meanflow_core.training import load_weights

    _, metadata = load_weights(weights)
    shape, classes = tuple(metadata["shape"]), metadata["num_classes"]
    picture = len(shape) == 3 and shape[0] in (1, 3)
    inputs: list[ColSpec | TensorSpec] = [ColSpec("long", "seed", required=False)]
    if classes is not None:
        inputs.insert(0, ColSpec("long", "label", required=False))
    rows = min(classes or 4, 10)
    example = pd.DataFrame({"label": range(rows), "seed": 0} if classes is not None else {"seed": [0] * rows})
    if "condition" in metadata:
        one = np.zeros(metadata["condition"]["shape"])
        entry: Any = DataType.double
        for _ in one.shape:
            entry = Array(entry)
        inputs.append(ColSpec(entry, "condition", required=False))
        example["condition"] = [one.tolist()] * rows
    kind, ends = (np.uint8, (*shape[1:], 3)) if picture else (np.float32, shape)
    told = load_config(metadata["config"]).objective.guidance.input
    scale = [ParamSpec("guidance", "double", None)] if told else []
    mlflow.pyfunc.save_model(
        path=str(path),
        python_model=str(Path(__file__).with_name("mlflow_model.py")),
        artifacts={"weights": str(weights)},
        code_paths=[str(Path(meanflow_core.__file__).parent), *_own_code(metadata["config"])],
        signature=ModelSignature(
            inputs=Schema(inputs),
            outputs=Schema([TensorSpec(np.dtype(kind), (-1, *ends))]),
            params=ParamSchema([ParamSpec("nfe", "long", 1), *scale]),
        ),
        input_example=(example, {"nfe": 1}),
        pip_requirements=["torch", "numpy", "omegaconf", "safetensors", "pyyaml", "mlflow"],
    )


def _own_code(content: Mapping[str, Any]) -> list[str]:
    """Return the file or folder of a network of the user's own, to travel with the model.

    An installed package is not copied: it is named in the model's address only, and must be there where it is loaded.
    """
    from meanflow_core.config import is_named

    name = content["model"]["name"]
    found = importlib.util.find_spec(name.partition(":")[0].partition(".")[0]) if is_named(name) else None
    if found is None:
        return []
    place = next(iter(found.submodule_search_locations or ()), found.origin)
    return [] if place is None or "site-packages" in Path(place).parts else [place]


def resolve(store: Store, address: str) -> Path:
    """Return the weights file of `models:/NAME/VERSION`, `models:/NAME/latest` or `models:/NAME@ALIAS`.

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
            raise _unknown(address, "is not a MeanFlow model of `meansweep train`")
        return Path(client.download_artifacts(chosen.run_id, f"{MODEL_FOLDER}/{WEIGHTS}"))
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
