"""What keeps a ledger from being opened or written; known without Optuna."""

from __future__ import annotations

from pathlib import Path


class LedgerError(RuntimeError):
    """The ledger cannot be read or written; says which file, why, and what to do."""


class SweepBusy(RuntimeError):
    """Another process drives this sweep."""

    def __init__(self, path: Path, pid: int | None, host: str | None) -> None:
        self.path, self.pid, self.host = path, pid, host
        super().__init__(path, pid, host)

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host}" if self.pid else "another process"
        name = self.path.parent.name
        return f"sweep {name!r} is running already, driven by {who}; `meansweep stop {name}` ends it"
