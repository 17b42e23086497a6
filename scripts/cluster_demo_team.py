"""What the long demo has besides: PostgreSQL under MLflow, a home's keys to a bucket, a search of files for secrets."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.local_cluster import free_port

STORE_SECRET = "marker-of-a-secret-key"


def postgres_missing() -> str | None:
    """Say what keeps MLflow from running on PostgreSQL here; None: nothing."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "PostgreSQL is not installed"
    if importlib.util.find_spec("psycopg2") is None:
        return "psycopg2 is not installed (pip install psycopg2-binary)"
    return None


def _program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian puts none but `pg_ctl`'s links into the path."""
    beside = Path(os.path.realpath(shutil.which("pg_ctl") or "")).with_name(name)
    return shutil.which(name) or (str(beside) if beside.is_file() else None)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL of its own for the block; yields the URI of its data base. Root runs it as `postgres`."""
    folder, port = Path(tempfile.mkdtemp(prefix="pg-")), free_port()
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

    def run(program: str, *words: str) -> None:
        command = [_program(program) or program, "-D", str(data), *words]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, env=environment)

    try:
        run("initdb", "-U", "meansweep", "--auth=trust", "--no-sync")
        run("pg_ctl", "-l", str(log), "-o", options, "-w", "start")
        try:
            yield f"postgresql+psycopg2://meansweep@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def store_credentials(endpoint: str) -> str:
    """Return the lines of a home's credentials that let its workers into the bucket."""
    lines = (f"AWS_ENDPOINT_URL={endpoint}", "AWS_ACCESS_KEY_ID=key", f"AWS_SECRET_ACCESS_KEY={STORE_SECRET}")
    return "\n".join([*lines, "AWS_DEFAULT_REGION=us-east-1", ""])


def files_with(markers: dict[str, str], roots: list[Path]) -> list[str]:
    """Return which files below some folders hold a marker, with its name; what its owner alone can read is his.

    Args:
        markers: what must not be found, by name.
        roots: folders.
    """
    found = []
    for file in (file for root in roots for file in root.rglob("*")):
        with contextlib.suppress(OSError):  # it is gone by now, or is a socket
            own = file.name == "credentials" and not file.stat().st_mode & 0o077
            if file.is_symlink() or not file.is_file() or own:
                continue
            content = file.read_bytes()
            found += [f"{name} in {file}" for name, marker in markers.items() if marker.encode() in content]
    return found
