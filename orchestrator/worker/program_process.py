"""The process of an own program, through its supervisor: started, waited for, ended with all that it has started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE = 10.0
"""Seconds that a program has between SIGTERM and SIGKILL, e.g. to write a checkpoint."""
SUPERVISOR = Path(__file__).with_name("supervisor.py")


class ProgramProcess:
    """A running program.

    Args:
        words: its command.
        folder: where it runs.
        environment: its variables, all of them.
        stdout: a file to which its standard output is appended.
        stderr: the same for its errors.
        grace: see `GRACE`.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        stdout: Path,
        stderr: Path,
        grace: float = GRACE,
    ) -> None:
        self._link, theirs = socket.socketpair()
        self._grace = grace
        self._said = b""
        self.ended: str | None = None
        """How it ended: `exit CODE`, `error TEXT`, or `gone` where even its supervisor was killed."""
        command = [sys.executable, "-I", "-S", str(SUPERVISOR), str(theirs.fileno()), str(grace), *words]
        with theirs, stdout.open("ab") as out, stderr.open("ab") as err:
            self._supervisor = subprocess.Popen(
                command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float) -> str | None:
        """Wait until it has ended, at most so long, and return how; None: it runs."""
        if self.ended is None and select.select([self._link], [], [], seconds)[0]:
            heard = self._link.recv(65536)
            self._said += heard
            if not heard or self._said.endswith(b"\n"):
                self.ended = self._said.decode(errors="replace").strip() or "gone"
                self._kill_group()
        return self.ended

    def end(self) -> None:
        """End it, if it runs: first by SIGTERM, by SIGKILL once its time is over."""
        if self.ended is None:
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_WR)  # tells the supervisor
            try:
                self.wait(self._grace + 5.0)
            finally:  # also when somebody interrupts the wait
                if self.ended is None:
                    self.ended = "gone"
                    self._kill_group()
        self._link.close()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._supervisor.pid, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
        self._supervisor.wait()
