"""No test meets what else runs on this machine: somebody's Ray cluster, MLflow server or sweeps."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

import pytest

OWN = ("MEANSWEEP_SCREENSHOTS", "MEANSWEEP_BROWSER_HOME")
"""Variables that ask the tests themselves for something."""

# At import, before Ray and MLflow read them, and for every process that a test starts.
for name in [name for name in os.environ if name.startswith(("RAY_", "MLFLOW_", "MEANSWEEP_")) and name not in OWN]:
    del os.environ[name]
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
"""Without it, almost every function of Ray connects to the cluster in /tmp/ray/ray_current_cluster, or starts one."""
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
"""Ray's workers run at 15, where the processes of these tests, at 0, starve them."""
os.environ["AWS_MAX_ATTEMPTS"] = "1"
"""This project tries again where a bucket is away; that botocore tries five times each time is not what is tested."""
os.fsync = lambda file: None  # type: ignore[assignment]
"""Nobody pulls the plug here: what was written outlives a killed process without it, and to wait for the disk is much
of the time of a simulated sweep. Processes that a test starts keep the real one."""
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
"""Hundreds of processes that the tests start import this project: compiled once, not once each."""
if "PYTEST_XDIST_WORKER" in os.environ:  # one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Have pytest collect garbage once at its end and not five times, a second each, for errors that are ignored."""
    with contextlib.suppress(ImportError):  # it has no option for this
        from _pytest.unraisableexception import gc_collect_iterations_key

        config.stash[gc_collect_iterations_key] = 1


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of Python's collections: millions of objects that live to the end, and would be
    gone through again and again."""
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="session", autouse=True)
def _mlflows_data_base_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from orchestrator.tracking import mlflow_store
    from tests.orchestrator import mlflow_stores

    own = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_stores, "template_folder", own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)
        patch.setattr(mlflow_store, "_make_whole", mlflow_stores.copied)
        yield


@pytest.fixture(autouse=True)
def _no_ray_by_accident(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that uses Ray and is not marked: every other one may run beside any cluster."""
    marked = any(request.node.get_closest_marker(mark) for mark in ("ray", "cluster"))
    assert marked or not _connected(), "an earlier test has left Ray connected"
    yield
    assert marked or not _connected(), "mark this test `ray`: it has connected to a Ray"


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
