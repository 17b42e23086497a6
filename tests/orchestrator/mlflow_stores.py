"""Real MLflow stores for tests, a proxy that makes a server fail, and runs read back as `MemoryTracker` has them."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from orchestrator.tracking import mlflow_store
from orchestrator.tracking.mlflow_store import Sent, Store, connect
from orchestrator.tracking.mlflow_ui import server
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.tracker import MemoryRun

made_by_mlflow = mlflow_store._make_whole
"""Makes MLflow's data base as it is made outside of these tests."""


template_folder: Path | None = None
"""Where an empty MLflow data base lies that all processes of a run of tests copy: making one takes a second or two. It
is set by tests/conftest.py; elsewhere each is made anew."""


def copied(file: Path) -> None:
    """Make MLflow's data base as a copy of an empty one, for every test that does not look at how it is made."""
    if template_folder is None:
        made_by_mlflow(file)
    elif not file.exists():
        empty = template_folder / "empty-mlflow.db"
        made_by_mlflow(empty)  # unless it is there
        with tempfile.TemporaryDirectory(dir=file.parent) as aside:
            Path(shutil.copy(empty, aside)).rename(file)


def sqlite_store(folder: Path) -> Store:
    """A store of its own below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    copied(folder / "mlflow.db")
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


USER, PASSWORD = "admin", "a long p%40ssword"


@contextlib.contextmanager
def password_server(folder: Path, port: int = 0, *, mark: str = "", backend: str = "") -> Iterator[str]:
    """Run an MLflow server over a store in a folder that asks for `USER` and `PASSWORD`; yields its URL.

    Started again over the same folder and port it is the same server. `mark` is that of a `Guardian`; `backend` the URI
    of another data base than the folder's own.
    """
    if not (folder / "auth.ini").exists():
        sqlite_store(folder)
        (folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = {USER}\n"
            f"admin_password = {PASSWORD.replace('%40', '@')}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 600\n"
        )
    secrets = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for tests",
        **dict([mark.split("=", 1)] if mark else []),
    }
    store = Store(backend or f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    options = ("--app-name", "basic-auth")
    with server(store, port=port, log=folder / "log.txt", extra=options, variables=secrets) as (url, _):
        yield url


def picture(path: Path, shade: int = 128) -> str:
    """Write a small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((24, 32, 3), shade, dtype=np.uint8)
    pixels[::3] = 255 - shade
    Image.fromarray(pixels).save(path)
    return str(path)


def read_back(folder: Path, store: Store) -> dict[str, MemoryRun]:
    """Return the runs of an outbox as the store holds them."""
    client, runs = connect(store), {}
    sent = Sent.load(folder, store)
    names = {run_id: key for key, run_id in sent.runs.items()}
    for key, run_id in sent.runs.items():
        run = client.get_run(run_id)
        parent = run.data.tags.get("mlflow.parentRunId")
        found = MemoryRun(
            name=run.info.run_name,
            parent=None if parent is None else names[parent],
            experiment=client.get_experiment(run.info.experiment_id).name,
            status=run.info.status,
            params=run.data.params,
            tags=run.data.tags,
            datasets=[entry.dataset.name for entry in run.inputs.dataset_inputs],
        )
        for name in run.data.metrics:
            history = client.get_metric_history(run_id, name)
            found.metrics[name] = {metric.step: metric.value for metric in history}
            assert len(found.metrics[name]) == len(history), f"{key} {name} holds a step twice"
        for entry in client.list_artifacts(run_id):
            if entry.path == "images":
                for image in client.list_artifacts(run_id, "images"):
                    if image.path.endswith(".png"):
                        name, _, step, *_ = Path(image.path).name.split("+")
                        steps = found.images.setdefault(name.replace("~", "/"), {})
                        assert int(step) not in steps, f"{key} has two pictures {name} of step {step}"
                        steps[int(step)] = image.path
            else:
                path = Path(client.download_artifacts(run_id, entry.path))
                found.files[entry.path] = path.read_text() if path.is_file() else "folder"
        runs[key] = found
    return runs


def events_of(folder: Path) -> list[str]:
    """What an outbox holds, in order, as `run what`."""
    return [f"{record.run} {record.what}" for record in Outbox(folder).records()]


class FaultyProxy:
    """An HTTP proxy in front of a server, in one of these moods:

    up: passes everything on; refuse: closes the connection; error: answers 500; mute: passes the request on and drops
    the answer; a number: passes on after so many seconds.
    """

    def __init__(self, target: str) -> None:
        self.mood: str | float = "up"
        self.requests = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.requests += 1
                mood = proxy.mood
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if mood == "refuse":
                    self.close_connection = True
                    return
                if isinstance(mood, float):
                    deadline = time.monotonic() + mood
                    while time.monotonic() < deadline and proxy.mood == mood:
                        time.sleep(0.02)
                if mood == "error":
                    status, headers, content = 500, [("Content-Type", "text/plain")], b"it hurts"
                else:
                    status, headers, content = self.forward(body)
                if mood == "mute":
                    self.close_connection = True
                    return
                with contextlib.suppress(OSError):  # the client may have given up
                    self.send_response(status)
                    for name, value in headers:
                        if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(urlsplit(target).netloc, timeout=30)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    return answer.status, answer.getheaders(), answer.read()
                finally:
                    connection.close()

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.mood = "refuse"
        self._server.shutdown()
        self._server.server_close()
