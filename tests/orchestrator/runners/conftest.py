"""A local Ray that the tests of this folder share."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.cluster.local_cluster import free_port
from tests.guardian import Guardian


@pytest.fixture(scope="session")
def ray_head() -> Iterator[str]:
    """The address of a Ray of two CPUs, and of three GPUs that are not there: to start one costs seconds."""
    scratch = Path(tempfile.mkdtemp(prefix="ray-"))  # not pytest's: Ray's sockets need a short path
    mark, address = f"MADE_BY={uuid.uuid4().hex}", f"127.0.0.1:{free_port()}"
    guardian = Guardian(scratch, mark)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", "--include-dashboard=false"),
        *("--num-cpus=2", "--num-gpus=3", '--resources={"slot": 2}', "--object-store-memory=100000000"),
        *(f"--temp-dir={scratch}", f"--dashboard-agent-listen-port={free_port()}"),
        f"--ray-client-server-port={free_port()}",
    ]
    unused = {"RAY_enable_worker_prestart": "false", "RAY_prestart_worker_first_driver": "false"}  # by these tests
    # A test may have set a mode of its own for the processes that it starts; this one has read its mode already.
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **unused, **dict([mark.split("=", 1)])}
    log = scratch / "start.log"
    with log.open("wb") as stream:
        head = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        guardian.clear()
        head.wait()


@pytest.fixture(scope="module")
def local_ray(ray_head: str) -> Iterator[None]:
    """This process is connected to the shared Ray."""
    ray.init(address=ray_head, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()
