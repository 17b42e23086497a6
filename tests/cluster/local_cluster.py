"""A real Ray cluster on this machine: a head and worker nodes as processes of their own, closed by a token."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

TOKEN = uuid.uuid4().hex


class LocalCluster:
    """Nodes are started and killed one by one; nothing else on this machine is touched."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard_port}"
        self.home = scratch / "home"
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MEANSWEEP_"))},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            "OMP_NUM_THREADS": "1",
            "MEANSWEEP_HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start_head(self) -> None:
        self._start(
            "--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}", f"--temp-dir={self.scratch}", "--object-store-memory=100000000",
            f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while not self._answers():
            assert time.monotonic() < deadline, "the cluster's job server does not answer"
            assert self._nodes[0].poll() is None, self._log(0)
            time.sleep(0.5)

    def add_node(self, cpus: int = 1) -> subprocess.Popen[bytes]:
        return self._start(
            f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}", "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={free_port()}",
        )  # fmt: skip

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill every process of a node at once, as a machine that goes away does."""
        for pid in [node.pid, *descendants(node.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        for node in reversed(self._nodes):
            self.kill(node)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self.scratch / f"node-{len(self._nodes)}.log").open("wb")
        node = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
             "--node-ip-address=127.0.0.1", *words],
            env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=self.scratch,
        )  # fmt: skip
        self._nodes.append(node)
        return node

    def _answers(self) -> bool:
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _log(self, node: int) -> str:
        return (self.scratch / f"node-{node}.log").read_text()


def descendants(root: int) -> list[int]:
    """Return the processes below one: workers have process groups of their own."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
