"""Run a program and see to it that nothing of it outlives whoever has started it.

A process of its own between the worker and the program, the first of its process group: it tells the worker how the
program ended, over a socket, and when the other end of that is closed (the worker wants it, or was killed) it ends the
whole group, by SIGTERM and, after some seconds, by SIGKILL. It is run as a file, with the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any


def main(descriptor: int, grace: float, words: list[str]) -> None:
    """Run a command.

    Args:
        descriptor: of the socket; `exit CODE` (negative: a signal) or `error TEXT` is written to it.
        grace: seconds between SIGTERM and SIGKILL.
        words: of the command.
    """
    link = socket.socket(fileno=descriptor)
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # meant for the program; unlike SIG_IGN it does not inherit a handler
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    except OSError as error:
        link.sendall(f"error {error}\n".encode())
        return
    watched: list[Any] = [link, awake]
    while child.poll() is None:
        ready, _, _ = select.select(watched, [], [])
        if awake in ready:
            os.read(awake, 4096)
        if link in ready:  # closed: nobody writes to it
            _end(child, grace)
            break
    with contextlib.suppress(OSError):
        link.sendall(f"exit {child.wait()}\n".encode())
    os.killpg(0, signal.SIGKILL)  # what the program has left running, and this process


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if child.poll() is None:
        child.kill()


def _die_with_parent() -> None:
    """Should this process be killed itself, the program goes with it (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
