"""A real Ray cluster on this machine: a head and worker nodes as processes of their own, closed by a token."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable
from pathlib import Path

from tests.guardian import Guardian

TOKEN = uuid.uuid4().hex
MARK = f"RAY_AUTH_TOKEN={TOKEN}"
"""Of the guardian: what has it in its environment ends with this process."""


class LocalCluster:
    """Nodes are started and killed one by one; nothing else on this machine is touched.

    Args:
        scratch: its folder; deleted when the cluster is closed or this process ends, however it does.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard_port}"
        self.home = scratch / "home"
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._guardian = Guardian(scratch, MARK)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MEANSWEEP_"))},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            "RAY_health_check_period_ms": "1000",  # a node that was killed is missed after 5 s, not 15
            "OMP_NUM_THREADS": "1",
            "MEANSWEEP_HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start_head(self) -> None:
        """Start the head and return once its job server answers."""
        self._begin(
            1, "--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=true",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={free_port()}",
        )  # fmt: skip

    def add_nodes(self, count: int, cpus: int = 1) -> list[subprocess.Popen[bytes]]:
        """Start nodes and return once all have joined."""
        return self._begin(count, f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}")

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill every process of a node at once, as a machine that goes away does."""
        kill([node.pid, *descendants(node.pid)])
        node.wait()

    def close(self) -> None:
        """Kill what is left of the cluster and delete its folder."""
        self._guardian.clear()
        for node in self._nodes:
            node.wait()

    def _begin(self, count: int, *words: str) -> list[subprocess.Popen[bytes]]:
        """Start nodes; on a machine that is very busy Ray gives up after 30 s, so each is tried again."""
        before = self.alive() if self._nodes else frozenset()
        nodes = [self._start(*words) for _ in range(count)]
        tries = 3 * count
        while len(self.alive() - before) < count:
            for at, node in enumerate(nodes):
                if node.poll() is not None:
                    if not tries:
                        raise RuntimeError(f"a node of Ray could not be started:\n{self._log(len(self._nodes) - 1)}")
                    nodes[at], tries = self._start(*words), tries - 1
            time.sleep(0.3)
        return nodes

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        number = len(self._nodes)
        log = (self.scratch / f"node-{number}.log").open("wb")
        # A folder each, as on machines of their own: in a shared one a node that joins unpacks the code of a job anew,
        # below the workers that import from it.
        own = self.scratch / f"n{number}"
        own.mkdir()
        node = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
             "--node-ip-address=127.0.0.1", "--object-store-memory=100000000",
             f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={own}", *words],
            env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=self.scratch,
        )  # fmt: skip
        self._nodes.append(node)
        return node

    def alive(self) -> frozenset[str]:
        """Return the nodes' ids, none while the job server does not answer."""
        header = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{self.address}/nodes?view=summary", headers=header)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found = json.load(answer)["data"]["summary"]
        except (urllib.error.URLError, OSError):
            return frozenset()
        return frozenset(each["raylet"]["nodeId"] for each in found if each["raylet"].get("state") == "ALIVE")

    def _log(self, node: int) -> str:
        return (self.scratch / f"node-{node}.log").read_text()


def command_of(pid: int) -> str:
    """Return a process's command line, or the name that Ray has given it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def kill(pids: Iterable[int]) -> None:
    """Kill processes; one that is gone already is no mistake."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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
