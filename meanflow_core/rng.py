"""Random numbers as a pure function of (seed, step, stream).

Every step draws its random numbers for the whole global batch from generators seeded by the run's seed, the step and
what they are for. So nothing has to be saved to resume a run, any number of devices sees the same global batch, and
runs that share a seed are paired: they see the same rows, noise and uniform numbers whatever else differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stable_seed(*parts: int | str) -> int:
    """Return 63 bits that depend on `parts` alone: the same in every process, on every machine."""
    digest = hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Streams:
    """The random streams of one run.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def at(self, stream: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Return the device's generator, seeded for `stream` at `step`. It is reused: draw before the next call."""
        device = torch.device(device)
        generator = self._generators.get(device)
        if generator is None:
            generator = self._generators[device] = torch.Generator(device)
        return generator.manual_seed(stable_seed(self.seed, stream, step))


@contextmanager
def seeded(*parts: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators inside the block, and put them back as they were after it."""
    device = torch.device(device)
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(stable_seed(*parts))
        yield
