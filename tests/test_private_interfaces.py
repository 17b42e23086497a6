"""What we use of other libraries that they do not promise: each in one module, and there in the versions that we allow.

A new version of one of them begins here: raise its bound in pyproject.toml, and see what these tests say.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from tests import ROOT

PRIVATE = {
    r"\bTuneController\b": "orchestrator/runners/ray_tune.py",
    r"\bpickled_error_file\b|\brun_metadata\b|\bevaluated_params\b": "orchestrator/runners/ray_tune.py",
    r"\bclass_cache\b": "orchestrator/runners/ray_tune.py",
    r"\btemporary_state\b": "orchestrator/runners/ray_session.py",
    r"\bbackend_cls\b": "orchestrator/worker/process_group.py",
    r"\b_private\.runtime_env\b": "orchestrator/cluster/jobs.py",
    r"\bsqlite3\b": "orchestrator/tracking/mlflow_store.py",
    r"\bcompress_image_size\b": "orchestrator/tracking/mlflow_delivery.py",
    r"\bsharedViewState\b": "orchestrator/tracking/mlflow_views.py",
    r"\b_study_id\b": "orchestrator/ledger/studies.py",
    # The view without Optuna answers by the name that the ledger asks for.
    r"\b_trial_id\b": "orchestrator/ledger/journal_view.py orchestrator/ledger/ledger.py",
    r"\b_compute_acquisition_func\b": "orchestrator/search/methods/tpe.py",
    r"\bJournalFileBackend\b": "orchestrator/ledger/journal.py",
    r"\.mro\(\)": "orchestrator/cli/main.py",
    r"\btorch\._dynamo\b": "meanflow_core/training/graphs.py",
    r"\btorch\._foreach": "meanflow_core/training/ema.py",
}
"""A private name, and the one module that uses it, or two."""
BOUNDED = ("ray", "mlflow", "optuna", "typer")


@pytest.mark.parametrize(("name", "place"), PRIVATE.items(), ids=PRIVATE.values())
def test_a_private_interface_is_used_in_one_module(name: str, place: str) -> None:
    files = [path for root in ("orchestrator", "meanflow_core") for path in (ROOT / root).rglob("*.py")]
    using = [str(path.relative_to(ROOT)) for path in files if re.search(name, path.read_text())]
    assert sorted(using) == place.split()


def test_the_versions_of_libraries_with_private_interfaces_have_an_upper_bound_and_the_pinned_one_is_within() -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(re.fullmatch(r"([\w-]+)(?:\[.*\])?>=.*?(?:,<([\d.]+))?", line).groups() for line in needs)  # type: ignore[union-attr]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("."))

    for library in BOUNDED:
        assert bounds[library] is not None, library
        assert number(pins[library]) < number(bounds[library])


def test_ray_tune_has_the_loop_and_the_state_that_the_runner_uses() -> None:
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Experiment, Trial
    from ray.tune.experiment.trial import _TemporaryTrialState, _TrainingRunMetadata
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    assert isinstance(ENV_VARS_TO_PROPAGATE, set)  # we take the keys out of it
    options = {"search_alg", "scheduler", "callbacks", "reuse_actors", "storage", "checkpoint_period"}
    assert options <= set(inspect.signature(TuneController).parameters)
    loop = ("step", "is_finished", "cleanup", "update_max_pending_trials")
    assert all(hasattr(TuneController, name) for name in loop)
    assert isinstance(Searcher.FINISHED, str)
    assert hasattr(TrialScheduler, "_supports_buffered_results")
    assert "self.storage" in inspect.getsource(Experiment.__init__)
    assert "self.ray_actor" in inspect.getsource(_TemporaryTrialState.__init__)
    assert "self.temporary_state" in inspect.getsource(Trial.__init__)
    assert all(hasattr(Trial, name) for name in ("error_file", "pickled_error_file"))
    assert "self.evaluated_params" in inspect.getsource(Trial.__init__)
    kept = inspect.getsource(_TrainingRunMetadata.__init__)
    assert all(f"self.{name}" in kept for name in ("last_result", "metric_analysis", "metric_n_steps"))


def test_ray_train_starts_torch_through_a_backend_that_can_be_extended() -> None:
    from ray.train.torch import TorchConfig

    assert dataclasses.is_dataclass(TorchConfig)
    assert list(inspect.signature(TorchConfig().backend_cls.on_start).parameters)[:3] == [
        "self",
        "worker_group",
        "backend_config",
    ]


def test_mlflows_data_base_has_the_places_of_artifacts_where_we_look_for_them() -> None:
    from mlflow.store.model_registry.dbmodels import models as registry
    from mlflow.store.tracking.dbmodels import models as tracking
    from mlflow.tracking.multimedia import compress_image_size

    from orchestrator.tracking.mlflow_store import _PLACES

    tables = {**tracking.Base.metadata.tables, **registry.Base.metadata.tables}
    assert [(table, column) for table, column in _PLACES if column not in tables[table].columns] == []
    absolute = {"artifact_uri", "artifact_location", "storage_location", "source"}
    found = {(name, c.name) for name, table in tables.items() for c in table.columns if c.name in absolute}
    assert found - set(_PLACES) == {("evaluation_dataset_records", "source"), ("mcp_server_versions", "source")}
    assert callable(compress_image_size)


def test_mlflows_pages_know_a_shared_view_by_its_tag() -> None:
    import mlflow

    pages = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static"
    text = "".join(file.read_text(errors="replace") for file in pages.rglob("*.js") if file.stat().st_size < 2 * 10**7)
    assert "mlflow.sharedViewState." in text
    assert "viewStateShareKey" in text


def test_typers_base_of_all_errors_of_use_shows_itself() -> None:
    from orchestrator.cli.main import UsageProblem

    assert UsageProblem.__name__ == "ClickException"
    assert list(inspect.signature(UsageProblem.show).parameters) == ["self", "file"]


def test_optuna_gives_the_ids_below_its_studies_and_takes_a_lock_of_ours() -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=1.0))
    assert isinstance(study._study_id, int)
    assert isinstance(study.trials[0]._trial_id, int)
    assert {"file_path", "lock_obj"} <= set(inspect.signature(JournalFileBackend).parameters)
    assert callable(JournalFileBackend.append_logs)


def test_torch_has_its_limit_of_graphs_and_the_step_of_many_averages() -> None:
    import torch

    assert isinstance(torch._dynamo.config.recompile_limit, int)
    average, weight = torch.tensor([2.0]), torch.tensor([6.0])
    torch._foreach_lerp_([average], [weight], 0.25)
    assert average.item() == 3.0
