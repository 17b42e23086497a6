"""Every file name below `$MEANSWEEP_HOME`, in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def valid_name(name: str) -> bool:
    """Whether a sweep may bear this name: letters, digits, `.`, `_`, `-`, so that it is a plain folder name."""
    return _NAME.fullmatch(name) is not None


def relocated(path: str, folder: Path) -> str:
    """Return where a file of a sweep (or training) is now, wherever its folder stood when the path was noted."""
    _, found, rest = path.rpartition(f"/{folder.parent.name}/{folder.name}/")
    return str(folder / rest) if found and "://" not in path else path


@dataclass(frozen=True)
class TrialPaths:
    """The folder of one trial."""

    root: Path

    @property
    def config(self) -> Path:
        """The complete training configuration, written before the trial starts."""
        return self.root / "config.yaml"

    @property
    def log(self) -> Path:
        """What the trial's worker printed, over all its runs."""
        return self.root / "log.txt"

    @property
    def images(self) -> Path:
        """The folder of its pictures."""
        return self.root / "images"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint (a folder) taken at `step`."""
        return self.checkpoints / f"step-{step:08d}"


@dataclass(frozen=True)
class SweepPaths:
    """The folder of one sweep."""

    root: Path

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.root.name

    @property
    def journal(self) -> Path:
        """The ledger's file."""
        return self.root / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """The file whose kernel lock the driver holds; its text names the driver."""
        return self.root / "driver.lock"

    @property
    def spec(self) -> Path:
        """A copy of the sweep file as it was started or last edited, to look at; the ledger is what counts."""
        return self.root / "sweep.yaml"

    @property
    def trials(self) -> Path:
        """The folder of the trials' folders."""
        return self.root / "trials"

    @property
    def outbox(self) -> Path:
        """What is still to be sent to the tracking server."""
        return self.root / "outbox"

    @property
    def mailbox(self) -> Path:
        """The folder of commands for the driver."""
        return self.root / "mailbox"

    @property
    def code(self) -> Path:
        """The folder with the changes to the code's commit, and the packages, of the drivers so far."""
        return self.root / "code"

    @property
    def driver_log(self) -> Path:
        """What the driver logged."""
        return self.root / "driver.log"

    def trial(self, trial_id: str) -> TrialPaths:
        """The folder of one trial: `trials/7`, `trials/7.2`."""
        if not valid_name(trial_id):
            raise ValueError(f"not a trial id: {trial_id!r}")
        return TrialPaths(self.trials / trial_id)


@dataclass(frozen=True)
class Home:
    """The folder under which all state lives: `$MEANSWEEP_HOME`, by default `./meansweep-data`."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """The home that the environment names."""
        return cls(Path(os.environ.get("MEANSWEEP_HOME") or "meansweep-data").expanduser().absolute())

    @property
    def mlflow_db(self) -> Path:
        """MLflow's SQLite file."""
        return self.root / "mlflow.db"

    @property
    def credentials(self) -> Path:
        """Passwords and keys, readable by its owner alone; written by people, never by this program."""
        return self.root / "credentials"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.root / "artifacts"

    @property
    def sweeps(self) -> Path:
        """The folder of the sweeps' folders."""
        return self.root / "sweeps"

    def sweep(self, name: str) -> SweepPaths:
        """The folder of one sweep, whether it exists or not."""
        if not valid_name(name):
            raise ValueError(f"not a sweep name: {name!r} (letters, digits, '.', '_' and '-')")
        return SweepPaths(self.sweeps / name)

    def final(self, name: str) -> Path:
        """The folder of one final training, whether it exists or not."""
        return self.root / "final" / name

    def all_sweeps(self) -> Iterator[SweepPaths]:
        """Every sweep that has a ledger, by name."""
        if self.sweeps.is_dir():
            for folder in sorted(self.sweeps.iterdir()):
                if SweepPaths(folder).journal.is_file():
                    yield SweepPaths(folder)
