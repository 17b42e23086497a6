"""Where tracking goes: an MLflow store, a client of it, and the note of what it has been sent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from orchestrator.credentials import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Store:
    """An MLflow store.

    Args:
        uri: MLflow's tracking URI.
        artifacts: folder for the artifacts of new experiments; None: the server decides.
    """

    uri: str
    artifacts: Path | None = None

    @classmethod
    def of(cls, home: Any) -> Store:
        """Return the store of a home: `MLFLOW_TRACKING_URI` if it is set, otherwise SQLite in the home.

        Args:
            home: an `orchestrator.paths.Home` (or anything with `mlflow_db` and `artifacts`).
        """
        uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        if uri:
            return cls(uri)
        return cls(f"sqlite:///{Path(home.mlflow_db).resolve()}", Path(home.artifacts).resolve())

    @property
    def name(self) -> str:
        """The URI without user and password, for messages and file names."""
        return without_password(self.uri)

    def ping(self) -> str:
        """Ask the store for an answer and return what it is, in words.

        Raises:
            ConnectionError: it does not answer, or does not let us in.
        """
        try:
            connect(self).search_experiments(max_results=1)
        except Exception as error:
            raise ConnectionError(f"{self.name}: {without_password(str(error))}") from error
        return self.name

    @property
    def digest(self) -> str:
        """A short name for the file that remembers what this store has been sent."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:12]


@dataclass
class Sent:
    """What a store has been sent; written whole and atomically, so it is never half right."""

    path: Path
    store: str
    position: int = 0
    offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path, store: Store) -> Sent:
        """Read the state for a store; a new one where there is none.

        The data base of the outbox's own home moves with it: where that is does not say what it has been sent.
        """
        home = folder.absolute().parents[2].resolve()  # above sweeps/NAME/outbox, final/NAME/outbox
        own_base = store.artifacts is not None and Path(store.uri.removeprefix("sqlite:///")).parent == home
        path = folder / f"sent-{'home' if own_base else store.digest}.json"
        if path.exists():
            return cls(path, **{**json.loads(path.read_text()), "store": store.name})
        if own_base:  # releases before named the file by the place where the home was
            file = Path(store.uri).name
            notes = [json.loads(each.read_text()) for each in sorted(folder.glob("sent-*.json"), key=_age)]
            own = [note for note in notes if re.fullmatch(f"sqlite:///.*/{re.escape(file)}", str(note["store"]))]
            if own:
                return cls(path, **{**own[-1], "store": store.name})
        return cls(path, store.name)

    def save(self) -> None:
        """Replace the file."""
        content = {key: value for key, value in vars(self).items() if key != "path"}
        aside = self.path.with_suffix(".tmp")
        aside.write_text(json.dumps(content))
        aside.replace(self.path)


def _age(file: Path) -> float:
    return file.stat().st_mtime


@contextlib.contextmanager
def sending(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the right to send an outbox; the kernel gives it back when the process dies.

    Raises:
        BlockingIOError: another process holds it and `wait` is false.
    """
    with (folder / "sender.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def quiet_mlflow() -> None:
    """Keep MLflow from phoning home, printing and retrying for minutes; what the user has set stays."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox retries, and it forgets nothing
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    _quiet_loggers()


def _quiet_loggers() -> None:
    for name, level in (("alembic", logging.WARNING), ("mlflow", logging.WARNING), ("urllib3", logging.ERROR)):
        logging.getLogger(name).setLevel(level)


def is_refusal_of_user(error: Exception) -> bool:
    """Whether a server has answered that it rejects this user and password."""
    return "error code 401" in str(error)


def connect(store: Store) -> MlflowClient:
    """Return a client of a store (imports MLflow: seconds)."""
    quiet_mlflow()
    from mlflow import MlflowClient

    _quiet_loggers()  # again: importing MLflow sets its own level
    if store.uri.startswith("sqlite:///"):
        file = Path(store.uri.removeprefix("sqlite:///"))
        file.parent.mkdir(parents=True, exist_ok=True)
        _make_whole(file)
        if store.artifacts is not None:
            _follow_a_move(file, store.artifacts)
    return MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)


def _make_whole(file: Path) -> None:
    """Let MLflow make its data base elsewhere, then move it: what a kill or a full disk leaves half made stays so."""
    with file.with_name(f".{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return
        from mlflow import MlflowClient

        for left in file.parent.glob(f".{file.name}-*"):  # by a kill
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
            aside = Path(folder) / file.name
            MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)
            aside.rename(file)


_PLACES = (
    *(("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location"), ("experiments", "artifact_location")),
)
"""Where MLflow's data base holds absolute places of artifacts."""


def _follow_a_move(file: Path, artifacts: Path) -> None:
    """Put MLflow's places of artifacts right if the whole home has been moved: it writes them down as absolute ones."""
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        if "experiments" not in tables:  # MLflow has still to make it
            return
        for (place,) in database.execute("select distinct artifact_location from experiments").fetchall():
            then, _, name = str(place).rpartition("/")
            ours = then.startswith("file://") and then.endswith(f"/{artifacts.name}")
            if not ours or then == artifacts.as_uri() or not (artifacts / unquote(name)).is_dir():
                continue
            for table, column in _PLACES:
                if table in tables:
                    now = f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?"
                    length = len(f"{then}/{name}")
                    database.execute(now, (f"{artifacts.as_uri()}/{name}", length + 1, length + 1, f"{then}/{name}/"))
                    database.execute(
                        f"update {table} set {column} = ? where {column} = ?",
                        (f"{artifacts.as_uri()}/{name}", f"{then}/{name}"),
                    )
