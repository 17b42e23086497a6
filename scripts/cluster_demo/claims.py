"""What the demonstration says, claims and waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


class ClaimFailed(Exception):
    """Something that this project claims does not hold."""


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def claim(what: str, holds: object, found: object = "") -> None:
    """Print what was found, or end with it."""
    if not holds:
        raise ClaimFailed(f"{what}; found: {found}")
    say(f"   ok: {what}{f' ({found})' if found != '' else ''}")


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 600) -> Any:
    """Return what a condition returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise ClaimFailed(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.2)
    return found


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do something beside the block, which ends when both have; what either of them raises is raised."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(action)
        yield
        pending.result()
