"""A process that clears up after a test however that ends: also when it is killed and no `finally` runs.

It waits at a pipe that the kernel closes when the process of the test is gone, then kills every process that has the
mark in its environment (children inherit it, wherever they hang in the tree) or is in the folder, and deletes that.
Ray's agents are known by the folder alone: with their title they write over their environment. One that outlives its
node keeps a core busy for minutes.
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
        folder: is deleted; processes whose current folder it is end.
        mark: `NAME=value` in the environment of further processes that are to end; none if empty.
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


def inside(folder: Path) -> list[int]:
    """Return the processes whose current folder is this one or below it, be it deleted by now."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(place).removesuffix(" (deleted)")).is_relative_to(folder.resolve()):
                found.append(int(place.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def main() -> None:
    folder, mark = sys.argv[1:]
    sys.stdin.read()
    deadline = time.monotonic() + 20
    while (left := [*(marked(mark) if mark else ()), *inside(Path(folder))]) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)  # and once more: one may have started another
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
