"""What a check is, and how one is run: in a process of its own, within a time limit, to one line of JSON."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Figures = dict[str, Any]


class NotRun(Exception):
    """The check needs what is not here; the message says what. Nothing is proven and nothing is wrong."""


class Wrong(Exception):
    """The check ran and found a fault. The figures found so far are reported with it."""

    def __init__(self, reason: str, figures: Figures) -> None:
        super().__init__(reason)
        self.figures = figures


@dataclass(frozen=True)
class Setting:
    """Where the checks run. On a CPU their sizes are tiny: that rehearses the code and proves nothing of a GPU."""

    device: str = "cuda"

    @property
    def on_gpu(self) -> bool:
        """Whether there is something to measure."""
        return self.device == "cuda"

    def size(self, here: int, rehearsal: int) -> int:
        """Return `here` on a GPU and `rehearsal` on a CPU."""
        return here if self.on_gpu else rehearsal


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: of the check, one word.
        proves: what is known once it is ok.
        run: takes the setting, returns figures; raises `NotRun`, `Wrong`, or whatever happens.
        limit: seconds it may take.
    """

    name: str
    proves: str
    run: Callable[[Setting], Figures]
    limit: float = 60.0


def demand(figures: Figures, **rules: bool) -> Figures:
    """Return the figures if every rule holds.

    Raises:
        Wrong: naming the rules that do not hold.
    """
    broken = [name.replace("_", " ") for name, holds in rules.items() if not holds]
    if broken:
        raise Wrong("does not hold: " + "; ".join(broken), figures)
    return figures


def run_check(check: Check, setting: Setting, limit: float | None = None) -> dict[str, Any]:
    """Run a check in a child process and return its line.

    Args:
        check: what to run.
        setting: where.
        limit: seconds, where less than the check's own are left.

    Returns:
        `check`, `proves`, `ok` (true, false, or null: not run), `seconds`, `error` where there is one, and figures.
    """
    limit = check.limit if limit is None else min(limit, check.limit)
    began = time.monotonic()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # Forked, since the parent has torch loaded and never touches a GPU: a child starts at once.
    process = multiprocessing.get_context("fork").Process(target=_child, args=(check, setting, sender))
    process.start()
    sender.close()
    found: dict[str, Any]
    try:
        late = {"ok": False, "error": f"not done after {limit:.0f} s"}
        found = receiver.recv() if receiver.poll(limit) else late
    except EOFError:
        process.join()
        found = {"ok": False, "error": f"the process ended with exit code {process.exitcode}"}
    finally:
        _end(process)
    head = {"check": check.name, "proves": check.proves, "ok": found.pop("ok")}
    return {**head, "seconds": round(time.monotonic() - began, 1), **found}


def _child(check: Check, setting: Setting, sender: Connection) -> None:
    os.setsid()  # whatever it starts belongs to its group and ends with it
    try:
        found = {"ok": True, **check.run(setting)}
    except NotRun as error:
        found = {"ok": None, "error": f"not run: {error}"}
    except Wrong as error:
        found = {"ok": False, "error": str(error), **error.figures}
    except BaseException as error:
        found = {
            "ok": False,
            "error": f"{type(error).__name__}: {error}"[:600],
            "where": traceback.format_exc()[-1500:],
        }
    sender.send(found)
    sender.close()
    os._exit(0)  # past the end of an interpreter whose device may be sick


def _end(process: Any) -> None:
    """End a child and everything it started."""
    process.join(1)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.join()
