"""`meansweep ui` serves the store, says where, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_store import Store
from orchestrator.tracking.mlflow_ui import serve, server
from orchestrator.tracking.tracker import MlflowTracker
from tests import ROOT
from tests.orchestrator.example_sweep import spec
from tests.orchestrator.mlflow_stores import sqlite_store


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_where_a_server_is_named_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org/team")
    said = []
    assert serve(Home(tmp_path), say=said.append) == 0
    assert "https://mlflow.example.org/team" in said[0]
    assert "secret" not in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_refused_with_a_way_out(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .* --port"):
            serve(Home(tmp_path), port=port)


def test_a_server_that_cannot_start_shows_why(tmp_path):
    store = Store("nonsense://nowhere")
    with pytest.raises(ConfigError, match=r"did not start"), server(store, log=tmp_path / "ui.log"):
        pytest.fail("it must not start")


def test_the_password_of_a_data_base_stands_on_no_command_line(tmp_path, monkeypatch):
    began = []

    def begin(command, *, env, **options):
        began.append((command, env["MLFLOW_BACKEND_STORE_URI"]))
        raise OSError("that is enough")

    monkeypatch.setattr(subprocess, "Popen", begin)
    store = Store("postgresql://me:secret@db.example.org/runs")
    with pytest.raises(OSError, match="enough"), server(store, log=tmp_path / "ui.log"):
        pytest.fail("it must not start")
    [(command, uri)] = began
    assert "secret" not in " ".join(command)
    assert uri == store.uri


@pytest.mark.mlflow
def test_the_command_serves_until_it_is_told_to_end(tmp_path):
    home = Home(tmp_path)
    sqlite_store(tmp_path)
    tracker = MlflowTracker(home.sweep("digits-guidance").outbox, Store.of(home), interval=0.02, strict=True)
    tracker.sweep_started(spec(), {})
    assert tracker.close(30) == 0
    code = "import sys; from pathlib import Path\n"
    code += "from orchestrator.paths import Home; from orchestrator.tracking import serve\n"
    code += "sys.exit(serve(Home(Path(sys.argv[1])), port=0, say=lambda line: print(line, flush=True)))"
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        first, second = command.stdout.readline(), command.stdout.readline()
        url = first.split(" at ")[1].split()[0]
        assert "digits-guidance: " + url in second
        with urllib.request.urlopen(url, timeout=5) as page:
            assert b"MLflow" in page.read()
        children = [int(pid) for pid in Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()]
        assert any(alive(pid) for pid in children)
        command.send_signal(signal.SIGTERM)
        assert command.wait(15) == 0
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in children):
            assert time.monotonic() < deadline, "the server has outlived the command"
            time.sleep(0.05)
    finally:
        command.kill()
        command.wait()


def test_a_signal_while_the_server_starts_leaves_no_process(tmp_path):
    code = "import sys; from pathlib import Path\n"
    code += "from orchestrator.paths import Home; from orchestrator.tracking import serve\n"
    code += "sys.exit(serve(Home(Path(sys.argv[1])), port=0))"
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    for number in (signal.SIGTERM, signal.SIGHUP):
        command = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment)
        try:
            deadline = time.monotonic() + 60
            children = []
            while not children:
                assert command.poll() is None
                assert time.monotonic() < deadline
                listed = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text()
                children = [int(pid) for pid in listed.split()]
                time.sleep(0.01)
            command.send_signal(number)
            assert command.wait(30) == 0
            assert not any(alive(pid) for pid in children)
        finally:
            command.kill()
            command.wait()
