"""A local Ray that the tests of a file share."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import ray

from tests.guardian import Guardian


@pytest.fixture(scope="module")
def local_ray():
    scratch = tempfile.mkdtemp(prefix="ray-")  # not pytest's: Ray's sockets need a short path
    guardian = Guardian(Path(scratch))  # Ray's processes end with this one by themselves
    ray.init(
        address="local", num_cpus=2, resources={"slot": 2}, include_dashboard=False, log_to_driver=False,
        _node_ip_address="127.0.0.1", _temp_dir=scratch, object_store_memory=10**8,
    )  # fmt: skip
    yield
    ray.shutdown()
    guardian.clear()
