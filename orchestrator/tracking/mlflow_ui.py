"""`meansweep ui`: MLflow's own web pages over the store that the sweeps write to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from meanflow_core.errors import ConfigError, Problem
from orchestrator.credentials import without_password
from orchestrator.ending import interrupt, on_signals
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_store import Store, connect, quiet_mlflow
from orchestrator.tracking.mlflow_views import PORT, VIEW_TAG, several_path, view_path

START_SECONDS = 120.0
"""A first start creates the data base; on a slow disk that takes a while."""


def serve(home: Home, host: str = "127.0.0.1", port: int = PORT, *, say: Callable[[str], None] = print) -> int:
    """Serve MLflow's pages until interrupted; where a server is already named by `MLFLOW_TRACKING_URI`, say so.

    Args:
        home: whose sweeps to show.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        say: prints a line.

    Returns:
        The exit code: 0 after Ctrl-C.

    Raises:
        ConfigError: the port is taken, or the server does not start.
    """
    store = Store.of(home)
    if store.uri.startswith(("http://", "https://")):
        say(f"MLFLOW_TRACKING_URI names a server, which shows the sweeps: {store.name}")
        return 0
    with (  # the signals first: one that comes while MLflow starts ends that too
        _left_as_done(),
        on_signals(interrupt),
        server(store, host, port, log=home.root / "ui.log") as (url, process),
    ):
        say(f"MLflow shows the sweeps of {home.root} at {url} (Ctrl-C stops it)")
        for name, path in _views(store):
            say(f"  {name}: {url}{path}")
        say('From MLflow\'s own home page choose "Model training" (top left) first: it opens for chat applications.')
        if host not in ("127.0.0.1", "localhost", "::1"):
            say("It listens beyond this machine and asks for no password; see docs/mlflow.md for one that does.")
        return process.wait()
    return 0


@contextmanager
def _left_as_done() -> Iterator[None]:
    """Take an interrupt for the usual end of a server."""
    with suppress(KeyboardInterrupt):
        yield


def _views(store: Store, most: int = 10) -> list[tuple[str, str]]:
    """Return the newest sweeps with the path of their leaderboard view."""
    experiments = connect(store).search_experiments(order_by=["last_update_time DESC"], max_results=100)
    ours = [each for each in experiments if VIEW_TAG in each.tags]
    views = [(each.name, view_path(each.experiment_id)) for each in ours[:most]]
    if len(views) > 1:
        views.append(("all of them", several_path([each.experiment_id for each in ours[:most]])))
    return views


@contextmanager
def server(
    store: Store,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    log: Path,
    extra: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run an MLflow server over a store; it and its workers end with the block.

    Args:
        store: the data base and artifacts (not another server).
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        log: file for what it prints.
        extra: further options of `mlflow server`.
        variables: further variables of its environment.

    Yields:
        Its URL, once it answers, and its process.

    Raises:
        ConfigError: the port is taken, or the server does not start.
    """
    port = _claim(host, port)
    quiet_mlflow()
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", host, "--port", str(port), "--workers", "1", *extra]
    if store.artifacts is not None:
        command += ["--artifacts-destination", store.artifacts.as_uri()]
    # The data base may be named with its password: not on a command line, which everybody on the machine can read.
    named = {"MLFLOW_BACKEND_STORE_URI": store.uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**os.environ, **named, **(variables or {})}
    environment.pop("MLFLOW_TRACKING_URI", None)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = None
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(  # a session of its own: stopping it stops its workers, and only those
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        url = f"http://{host}:{port}"
        _await(url, process, log)
        yield url, process
    finally:
        if process is not None:
            _stop(process)


def _claim(host: str, port: int) -> int:
    """Return the port, or a free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            rule = f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port (0 takes a free one)"
            raise ConfigError([Problem(key="port", value=port, rule=rule)]) from error
        return int(probe.getsockname()[1])


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    tail = without_password("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
    raise ConfigError([Problem(key="ui", rule=f"MLflow's server did not start; the end of {log}:\n{tail}")])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group, gently at first."""
    for sign, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
