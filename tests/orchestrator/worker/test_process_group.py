"""Processes on two machines join one process group. The machines: two network namespaces (Linux, as root)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.worker.process_group import interface_of
from tests import ROOT

PROGRAM = """
import sys
import torch, torch.distributed as dist
from orchestrator.worker.process_group import join_process_group
rank = int(sys.argv[1])
join_process_group("10.213.7.1", 29411, rank, 2, on_gpu=False)
total = torch.tensor([float(3 + 4 * rank)])
dist.all_reduce(total)
print(total.item(), flush=True)
dist.barrier()
"""


def networks_can_be_made() -> bool:
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip")))
    return tools and subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True).returncode == 0


@pytest.fixture
def two_machines():
    """Two hosts with a cable between them, whose names stand for no address; they go with their processes."""
    holders = [subprocess.Popen(["unshare", "--net", "--uts", "sleep", "120"]) for _ in range(2)]
    inside = [["nsenter", "--target", str(holder.pid), "--net", "--uts"] for holder in holders]
    try:
        own = Path("/proc/self/ns/net").readlink()
        while any(Path(f"/proc/{holder.pid}/ns/net").readlink() == own for holder in holders):
            assert all(holder.poll() is None for holder in holders)
        ends = [["netns", str(holder.pid), "name", "cable"] for holder in holders]
        subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
        for number, run in enumerate(inside, start=1):
            for words in (
                f"hostname nowhere-{number}",
                "ip link set lo up",
                f"ip addr add 10.213.7.{number}/24 dev cable",
                "ip link set cable up",
                f"ip route add default via 10.213.7.{3 - number}",
            ):
                subprocess.run([*run, *words.split()], check=True)
        yield inside
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


@pytest.mark.skipif(not networks_can_be_made(), reason="needs root, unshare, nsenter and ip")
def test_processes_on_two_machines_find_one_another_though_their_hosts_names_stand_for_nothing(two_machines):
    ranks = [
        subprocess.Popen(
            [*run, sys.executable, "-c", PROGRAM, str(rank)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank, run in enumerate(two_machines)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=150) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [out for out, _ in said] == ["10.0\n", "10.0\n"], said


def test_gloo_listens_where_ray_reaches_the_node():
    assert interface_of("127.0.0.1") in {name for _, name in socket.if_nameindex()}
    assert interface_of("203.0.113.7") is None
