"""PostgreSQL below MLflow, where it is installed."""

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


def postgres_missing() -> str | None:
    """Say what keeps MLflow from running on PostgreSQL here; None: nothing."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "PostgreSQL is not installed"
    if importlib.util.find_spec("psycopg2") is None:
        return "psycopg2 is not installed (pip install psycopg2-binary)"
    return None


def _program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian puts none of a server's into the path."""
    places = [os.environ["PATH"], *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
    return shutil.which(name, path=os.pathsep.join(places))


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
        run("initdb", "-U", "meansweep", "--auth=trust", "--encoding=UTF8", "--no-sync")
        run("pg_ctl", "-l", str(log), "-o", options, "-w", "start")
        try:
            yield f"postgresql+psycopg2://meansweep@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
