"""Joining torch's process group, over the network that Ray's nodes know each other by."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import ray

JOIN_PATIENCE = 120.0
"""Seconds in which the processes of a group must have found one another."""


def use_rays_network() -> None:
    """Let gloo listen where Ray reaches this node.

    By itself it takes the address that the host name resolves to: on many machines that of the machine itself
    (127.0.1.1 in /etc/hosts), where no other node can reach it. A `GLOO_SOCKET_IFNAME` that is set already stays.
    """
    interface = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has this IP address; None if none has."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return str(name)
    return None


def join_process_group(host: str, port: int, rank: int, size: int, *, on_gpu: bool) -> None:
    """Join torch's default process group: nccl on GPUs, gloo on CPUs.

    Args:
        host: address of rank 0.
        port: where rank 0 listens.
        rank: of this process.
        size: of the group.
        on_gpu: whether each process has a GPU.

    Raises:
        torch.distributed.DistError: the others cannot be reached.
    """
    import torch.distributed as dist

    use_rays_network()
    # The store's patience is for finding one another; the group's own (half an hour) is for a rank that evaluates.
    patience = timedelta(seconds=JOIN_PATIENCE)
    store = dist.TCPStore(host, port, size, is_master=rank == 0, timeout=patience)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size)


def torch_config() -> Any:
    """Return Ray Train's configuration of torch, with each worker on Ray's network before it joins."""
    from ray.train.torch import TorchConfig

    backend: Any = TorchConfig().backend_cls

    class OnRaysNetwork(backend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(use_rays_network)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return OnRaysNetwork

    return Config()
