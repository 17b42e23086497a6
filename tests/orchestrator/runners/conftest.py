"""A local Ray that the tests of a file share."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.runners.ray_nodes import _environment
from tests.guardian import Guardian


@contextlib.contextmanager
def started_ray(**options: Any) -> Iterator[None]:
    """Start a Ray as a sweep starts its own, and connect this process to it for the block."""
    scratch = tempfile.mkdtemp(prefix="ray-")  # not pytest's: Ray's sockets need a short path
    guardian = Guardian(Path(scratch))  # Ray's processes end with this one by themselves
    with _environment():
        ray.init(
            address="local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
            _temp_dir=scratch, object_store_memory=10**8, **options,
        )  # fmt: skip
    yield
    ray.shutdown()
    guardian.clear()


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with started_ray(num_cpus=2, num_gpus=3, resources={"slot": 2}):  # Ray is told of GPUs that are not there
        yield
