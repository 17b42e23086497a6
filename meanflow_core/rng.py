"""Random numbers as a pure function of (seed, step, stream).

Every step draws its random numbers for the whole global batch from generators seeded by the run's seed, the step and
what they are for. So nothing has to be saved to resume a run, any number of devices sees the same global batch, and
runs that share a seed are paired: they see the same rows, noise and uniform numbers whatever else differs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
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
    """Seed the global generators (torch's, Python's, numpy's) inside the block, and put them back after it."""
    device = torch.device(device)
    with one_draw(device):
        seed = stable_seed(*parts)
        _seed_torch(seed, device)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        yield


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch as `torch.manual_seed` does, which at each call (at each step) writes down the call stack for every
    accelerator that was not started."""
    if device.type == "cpu" and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@dataclass(frozen=True, eq=False)
class RandomState:
    """The states of the generators that a network may draw from: torch's on CPU and device, Python's and numpy's."""

    device: torch.device
    states: tuple[Any, ...]

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Return the present states."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, (torch.get_rng_state(), on_device, random.getstate(), np.random.get_state(legacy=False)))

    def restore(self) -> None:
        """Let the generators draw again what they drew from here."""
        cpu, on_device, python, numpy = self.states
        torch.set_rng_state(cpu)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, self.device)
        random.setstate(python)
        np.random.set_state(numpy)

    def moved(self) -> bool:
        """Whether anything has been drawn since."""
        return not self.equals(RandomState.now(self.device))

    def equals(self, other: RandomState) -> bool:
        """Whether the generators stand where they do in another state."""
        cpu, on_device, python, numpy = self.states
        there = other.states
        return bool(
            torch.equal(cpu, there[0])
            and (on_device is None or torch.equal(on_device, there[1]))
            and python == there[2]
            and numpy["state"]["pos"] == there[3]["state"]["pos"]
            and np.array_equal(numpy["state"]["key"], there[3]["state"]["key"])
            and numpy["has_gauss"] == there[3]["has_gauss"]
        )


@contextmanager
def one_draw(device: torch.device) -> Iterator[RandomState]:
    """Put the generators back as they were after the block: what comes next draws the numbers the block drew."""
    state = RandomState.now(device)
    try:
        yield state
    finally:
        state.restore()
