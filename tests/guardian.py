"""A process that clears up after a test however that ends: also when it is killed and no `finally` runs.

It waits at a pipe that the kernel closes when the process of the test is gone, then kills every process that has the
mark in its environment (children inherit it, wherever they hang in the tree) and deletes the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


class Guardian:
    """Clears up when `clear` is called or this process ends.

    Args:
        folder: is deleted.
        mark: `NAME=value` in the environment of the processes that are to end; none if empty.
    """

    def __init__(self, folder: Path, mark: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", __file__, str(folder), mark], stdin=subprocess.PIPE, start_new_session=True
        )

    def clear(self) -> None:
        """Clear up now and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def marked(mark: str) -> list[int]:
    """Return the processes that have `mark` in their environment, but for this one."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
            if mark.encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def main() -> None:
    folder, mark = sys.argv[1:]
    sys.stdin.read()
    deadline = time.monotonic() + 20
    while mark and (left := marked(mark)) and time.monotonic() < deadline:  # again: one may have started another
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
