"""The signals that ask a program to end: all of them are obeyed alike."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; a supervisor; a closed terminal; what Slurm sends before the end of an allocation."""


@contextmanager
def on_signals(handler: Callable[..., object], signals: tuple[signal.Signals, ...] = SIGNALS) -> Iterator[None]:
    """Call a handler on each of the signals, for the block; one that is ignored (`nohup`) stays so.

    Outside of the main thread, which alone may set handlers, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def interrupt(*_: object) -> None:
    """Handle a signal as Ctrl-C is handled."""
    raise KeyboardInterrupt
