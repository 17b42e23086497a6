"""What travels to a cluster and what comes back, without a cluster."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from meanflow_core.errors import ConfigError
from orchestrator.cli import main as cli
from orchestrator.cluster.client import run_remotely, submit
from orchestrator.cluster.entrypoint import BEGIN, MARK, read_result, redirect_out
from orchestrator.cluster.jobs import explain, job_server
from orchestrator.cluster.packaging import copy_package, staged
from orchestrator.cluster.remote_args import from_here, positional, value_of
from orchestrator.spec.sweep import SweepSpec, read_spec
from tests.orchestrator import toy


def test_the_shipped_code_runs_alone_in_another_folder(tmp_path):
    with staged("tests.orchestrator.toy:Curve") as folder:
        assert sorted(path.name for path in folder.iterdir()) == [
            *("meanflow_core", "orchestrator", "tests", "tests.provenance.json"),
        ]
        assert (folder / "meanflow_core/data/build.py").exists()  # `data` holds code there
        assert not list(folder.rglob("__pycache__"))
        program = "import meanflow_core.data.build as b, tests.orchestrator.toy; print(b.__file__)"
        found = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
        assert found.stdout.startswith(str(folder))


def test_data_and_hidden_folders_stay_here(tmp_path, monkeypatch):
    package = tmp_path / "mine"
    for name in ("data", ".git", "code"):
        (package / name).mkdir(parents=True)
        (package / name / "file.bin").write_bytes(b"x")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    copy_package("mine", tmp_path / "there")
    assert sorted(path.name for path in (tmp_path / "there" / "mine").iterdir()) == ["__init__.py", "code"]


def test_a_package_that_is_not_here_cannot_be_sent():
    with pytest.raises(ConfigError, match="cannot be sent to the cluster"):
        copy_package("no_such_package", Path())


def test_a_package_that_is_too_big_for_code_is_refused(tmp_path, monkeypatch):
    (tmp_path / "huge").mkdir()
    with (tmp_path / "huge" / "weights.bin").open("wb") as file:
        file.truncate(60 * 2**20)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="60 MiB"):
        copy_package("huge", tmp_path / "there")


def test_the_sweep_file_that_travels_means_the_same_and_stands_alone(tmp_path):
    content = toy.grid()
    spec = toy.spec(content)
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(spec.standalone))  # JSON is YAML
    there = read_spec(file)
    assert (there.name, there.base, there.metrics, list(there.space.grid())) == (
        spec.name, spec.base, spec.metrics, list(spec.space.grid()),
    )  # fmt: skip
    assert isinstance(there, SweepSpec)


def test_a_file_that_is_asked_for_comes_back():
    assert redirect_out(["best", "s", "-o", "best.yaml"], "/t") == (["best", "s", "-o", "/t.yaml"], "best.yaml")
    assert redirect_out(["export", "--out=x.csv"], "/t") == (["export", "--out=/t.csv"], "x.csv")
    assert redirect_out(["export", "--csv", "x.csv"], "/t") == (["export", "--csv", "/t.csv"], "x.csv")
    assert redirect_out(["status"], "/t") == (["status"], None)


def test_the_result_is_found_among_the_lines_of_a_jobs_log():
    result = {"code": 0, "out": "line\n", "err": "", "file": base64.b64encode(b"x").decode()}
    log = f"INFO setting up\nRunning entrypoint\n{MARK}{json.dumps(result)}\nlater noise\n"
    assert read_result(log) == result
    assert read_result("Runtime env setup failed") is None


def test_the_far_end_runs_a_command_and_tells_its_parts_apart(tmp_path):
    with staged() as folder:
        command = [sys.executable, "-m", "orchestrator.cluster.entrypoint", "schema", "-o", "schema.json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        result = read_result(done.stdout)
        assert result is not None
        assert result["code"] == done.returncode == 0
        assert json.loads(base64.b64decode(result["file"]))["type"] == "object"
        assert result["out"] == "schema.json\n"
        assert not (folder / "schema.json").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("Token authentication is enabled but Ray couldn't find an authentication token.", "no token for http://c"),
        ("Request failed with status code 401: Unauthorized", "refuses this token"),
        ("Request failed with status code 403: Forbidden", "refuses this token"),
        ("Failed to connect to Ray at address: http://c", "ssh -L"),
    ],
)
def test_what_keeps_us_from_a_cluster_is_explained(error, said):
    assert said in explain("http://c", error)


def test_an_address_without_a_scheme_is_a_job_servers_where_one_answers():
    class Closed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server, socket.create_server(("127.0.0.1", 0)) as mute:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        assert job_server(address) == f"http://{address}"
        server.shutdown()
        ray = f"127.0.0.1:{mute.getsockname()[1]}"
        threading.Thread(target=lambda: mute.accept()[0].close(), daemon=True).start()  # Ray speaks no HTTP there
        assert job_server(ray) == ray
    for given in ("auto", "https://c:1", "127.0.0.1:9"):
        assert job_server(given) == given


def test_words_are_told_from_options_and_their_values():
    assert positional(["s", "-n", "5", "--json", "7"]) == ["s", "7"]
    assert value_of(["train", "--workers", "2", "--name=x"], "--workers") == "2"
    assert value_of(["train", "--workers", "2", "--name=x"], "--name") == "x"
    assert value_of(["train"], "--name") is None


def test_commands_in_what_a_cluster_says_reach_it_from_here():
    said = (
        "stopped; `meansweep resume` goes on\nnext:\n  meansweep ui    # MLflow\n"
        "  meansweep best s -o best.yaml && meansweep train best.yaml\n"
        "`meansweep trial retry 7.2 s`, meansweep status s"
    )
    at = "--address http://c:1"
    assert from_here(said, "http://c:1") == (
        f"stopped; `meansweep resume {at}` goes on\nnext:\n  meansweep ui    # MLflow\n"
        f"  meansweep best s -o best.yaml {at} && meansweep train best.yaml {at}\n"
        f"`meansweep trial retry 7.2 s {at}`, meansweep status s {at}"
    )
    assert from_here(f"meansweep logs s -f {at}", "http://other") == f"meansweep logs s -f {at}"
    assert from_here("`meansweep stop s`", "http://c", "/mnt/x") == (
        "`meansweep stop s --address http://c --remote-home /mnt/x`"
    )


class Cluster:
    """A job server that has driven sweeps, and takes jobs without running them."""

    def __init__(self, *jobs: SimpleNamespace) -> None:
        self.jobs, self.started, self.deleted = list(jobs), [], []
        self.printed = ""
        """Of a driver that is started."""

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, **job: Any) -> str:
        self.started.append(job)
        return "new"

    def get_job_status(self, job: str) -> str:
        return "SUCCEEDED"

    def get_job_info(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(status="SUCCEEDED", driver_exit_code=0)

    def delete_job(self, job: str) -> None:
        self.deleted.append(job)

    def get_job_logs(self, job: str) -> str:
        if job == "new" and self.printed:
            return f"Ray's own line\n{BEGIN}\n{self.printed}"
        if job == "new":
            return MARK + json.dumps({"code": 2, "out": "", "err": "SWEEP: no such sweep in /mnt/x\n", "file": None})
        return f"Ray's own line\n{BEGIN}\nfirst\nlast\n"


def driver(name: str, status: str = "RUNNING", **metadata: str) -> SimpleNamespace:
    return SimpleNamespace(
        submission_id=f"job-{name}",
        status=status,
        start_time=1000,
        metadata={
            "meansweep": name,
            "home": f"/mnt/{name}",
            "trainer": "meanflow_core:Trainer",
            **metadata,
        },
        runtime_env={"env_vars": {"MLFLOW_TRACKING_URI": f"http://{name}", "COLUMNS": "80"}},
    )


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster(driver("a"), driver("b"))
    monkeypatch.setattr("orchestrator.cluster.client.connect", lambda address: made)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def test_a_sweep_is_sent_with_the_words_that_replace_keys_of_its_file(cluster, tmp_path, monkeypatch):
    file, sent = tmp_path / "sweep.yaml", {}
    file.write_text(json.dumps(toy.spec(toy.grid()).standalone))

    def take(**job: Any) -> str:
        sent.update(yaml.safe_load((Path(job["runtime_env"]["working_dir"]) / "sweep.yaml").read_text()))
        return "new"

    monkeypatch.setattr(cluster, "submit_job", take)
    assert submit(file, "http://c", ["name=other", "retries=5"]) == "other"
    assert (sent["name"], sent["retries"]) == ("other", 5)


def test_of_two_who_submit_one_name_in_the_same_second_one_is_refused(cluster, tmp_path, monkeypatch, capsys):
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(toy.spec(toy.grid()).standalone))
    cluster.jobs.append(SimpleNamespace(**{**vars(driver("toy", "FAILED")), "submission_id": "meansweep-toy-7"}))

    def take(**job: Any) -> str:  # as Ray does; neither has seen the other's job in the list
        taken = {started["submission_id"] for started in cluster.started}
        if job["submission_id"] in taken:
            raise RuntimeError(f"Request failed: Job with submission_id {job['submission_id']} already exists. Please")
        cluster.started.append(job)
        return str(job["submission_id"])

    monkeypatch.setattr(cluster, "submit_job", take)
    words = ["submit", str(file), "--address", "http://c"]
    monkeypatch.setenv("MEANSWEEP_USER", "ann")
    assert cli.run(words) == 0
    monkeypatch.setenv("MEANSWEEP_USER", "ben")
    assert cli.run(words) == 2
    assert "by somebody else in this moment (job meansweep-toy-8)" in capsys.readouterr().err
    (job,) = cluster.started
    assert job["runtime_env"]["env_vars"]["MEANSWEEP_USER"] == "ann"
    assert job["entrypoint"].endswith(f"run sweep.yaml --id {job['metadata']['meansweep-id']}")
    assert len(job["metadata"]["meansweep-id"]) == 16


@pytest.mark.parametrize("words", [["status", "a"], ["resume", "a"], ["logs", "7", "a"], ["sync", "--check", "a"]])
def test_a_command_finds_the_home_and_the_mlflow_of_its_sweep(cluster, words):
    run_remotely("http://c", words)
    (job,) = cluster.started
    assert "MEANSWEEP_HOME=/mnt/a;" in job["entrypoint"]
    assert job["runtime_env"]["env_vars"]["MLFLOW_TRACKING_URI"] == "http://a"
    assert job["metadata"].get("meansweep") == (
        "a" if words[0] == "resume" else None
    )  # a new driver, or only a question


@pytest.mark.parametrize("words", [["status", "a"], ["resume", "a"], ["remove", "a", "--yes"]])
def test_of_two_homes_with_a_sweep_of_one_name_the_one_that_is_named_counts(cluster, words):
    other = driver("a", home="/mnt/other", trainer="tests.orchestrator.toy:Curve", **{"meansweep-id": "f" * 16})
    other.start_time, other.runtime_env = 2000, {"env_vars": {"MLFLOW_TRACKING_URI": "http://other"}}
    cluster.jobs.append(other)
    run_remotely("http://c", words, "/mnt/a/")
    (job,) = cluster.started
    assert "MEANSWEEP_HOME=/mnt/a;" in job["entrypoint"]
    assert job["runtime_env"]["env_vars"]["MLFLOW_TRACKING_URI"] == "http://a"
    if words[0] == "resume":
        assert job["metadata"]["trainer"] == "meanflow_core:Trainer"
        assert job["metadata"].get("meansweep-id") is None


def test_what_is_said_here_comes_first(cluster, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    run_remotely("http://c", ["status", "b"], "/mnt/new home")
    assert "MEANSWEEP_HOME='/mnt/new home'" in cluster.started[0]["entrypoint"]
    assert cluster.started[0]["runtime_env"]["env_vars"]["MLFLOW_TRACKING_URI"] == "http://other"


def test_a_driver_is_told_from_a_job_that_had_nothing_to_drive(cluster, capsys):
    cluster.printed = "driving a in /mnt/a/sweeps/a\n"
    assert run_remotely("http://c", ["resume", "a"]) == 0
    assert capsys.readouterr().out == "resumed; next: meansweep status a --address http://c\n"
    cluster.printed = "a has finished; `meansweep extend N a` lets it run more trials\n"
    assert run_remotely("http://c", ["resume", "a"]) == 0
    assert capsys.readouterr().out == (
        "a has finished; `meansweep extend N a --address http://c` lets it run more trials\n"
    )
    assert cluster.deleted == ["new"]  # `logs a` goes on showing what the last driver printed


def test_the_drivers_output_needs_no_job(cluster, capsys):
    assert run_remotely("http://c", ["logs", "a", "-n", "1"]) == 0
    assert capsys.readouterr().out == "last\n"
    assert cluster.started == []


@pytest.mark.parametrize(("status", "said"), [("RUNNING", "has not opened it yet"), ("FAILED", "has ended, FAILED")])
def test_a_sweep_that_its_driver_has_not_made_is_explained(cluster, capsys, status, said):
    cluster.jobs.append(driver("new", status))
    assert run_remotely("http://c", ["status", "new"]) == 2
    assert said in capsys.readouterr().err


def test_a_training_is_sent_with_its_file_and_the_home_of_its_sweep_and_runs_once(cluster, tmp_path, monkeypatch):
    followed = []
    monkeypatch.setattr("orchestrator.cluster.client.follow_job", lambda client, job, **_: followed.append(job) or 0)
    best = tmp_path / "best.yaml"
    best.write_text("data: {name: digits}\nmodel: {name: mlp}\nevidence: {sweep: a}\n")
    assert run_remotely("http://c", ["train", str(best), "--workers", "2"]) == 0
    (job,) = cluster.started
    assert "MEANSWEEP_HOME=/mnt/a;" in job["entrypoint"]
    assert job["entrypoint"].endswith("--follow train best.yaml --workers 2")
    cluster.jobs.append(
        SimpleNamespace(submission_id="there", status="RUNNING", start_time=2, metadata=job["metadata"])
    )
    run_remotely("http://c", ["train", str(best), "--workers", "2"])
    assert followed == ["new", "there"]
    with pytest.raises(ConfigError, match="optimizer"):
        run_remotely("http://c", ["train", str(best), "optimizer.lrr=1"])
