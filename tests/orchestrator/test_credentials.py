"""No password and no key is written down by a run, or sent where it would be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.cluster.jobs import ClusterError, start
from orchestrator.credentials import for_workers, left_behind, load_credentials, without_password
from orchestrator.paths import Home
from tests import ROOT
from tests.orchestrator.cluster.test_cluster_jobs import Cluster

MARKER = "marker-of-a-secret-7f3a"
SECRETS = {
    **{"MLFLOW_TRACKING_PASSWORD": MARKER, "MLFLOW_TRACKING_USERNAME": MARKER, "MLFLOW_TRACKING_TOKEN": MARKER},
    **{"AWS_ACCESS_KEY_ID": MARKER, "AWS_SECRET_ACCESS_KEY": MARKER, "AWS_SESSION_TOKEN": MARKER},
    **{"AZURE_STORAGE_KEY": MARKER, "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={MARKER}"},
    **{"GOOGLE_APPLICATION_CREDENTIALS": f"/{MARKER}", "HF_TOKEN": MARKER, "PGPASSWORD": MARKER},
    **{"WANDB_API_KEY": MARKER, "FSSPEC_SFTP_PASSWORD": MARKER},
}
SWEEP = """\
trainer: tests.orchestrator.toy:Curve
method: random
metric: {name: loss}
run_cap: 2
set: {trainer.steps: 4, trainer.eval_every: 2}
parameters: {x: {min: 0.0, max: 1.0}}
"""


def files_with(marker: str, folder: Path) -> list[str]:
    """Every file below a folder that holds a text."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and marker.encode() in file.read_bytes():
            found.append(str(file.relative_to(folder)))
    return found


def test_a_job_is_sent_without_passwords_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{MARKER}@mlflow.example.org:5000")
    cluster = Cluster()
    start(cluster, tmp_path, ["run", "sweep.yaml"], "/mnt/home", tags={"meansweep": "s"})
    [sent] = cluster.started
    assert MARKER not in repr(sent)
    assert sent["runtime_env"]["env_vars"]["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org:5000"
    [line] = left_behind("/mnt/home")
    assert all(
        word in line for word in ("PASSWORD", "user or key in MLFLOW_TRACKING_URI", "/mnt/home/credentials", "600")
    )
    assert MARKER not in line


def test_credentials_of_a_home_become_part_of_the_environment_where_it_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    load_credentials(home)  # none
    home.credentials.touch(mode=0o600)
    home.credentials.write_text("# of MLflow\nMLFLOW_TRACKING_USERNAME=me\n\nMLFLOW_TRACKING_PASSWORD=a=b c\n")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "another")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    load_credentials(home)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "a=b c"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "another"
    home.credentials.write_text("good=1\n")
    with pytest.raises(ConfigError, match="NAME=value"):
        load_credentials(home)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o622])
def test_credentials_that_others_can_read_are_refused(tmp_path: Path, mode: int) -> None:
    home = Home(tmp_path)
    home.credentials.write_text("A=1\n")
    home.credentials.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_credentials(home)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:MARK@host:5000/x", "http://host:5000/x"),
        ("http://me:odd@MARK@host/x", "http://host/x"),
        ("postgresql://me:a/MARK@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://me:1/MARK@host/db", "postgresql://host/db"),
        ("https://MARK@github.com/x", "https://github.com/x"),
        ("postgresql://host/db?user=u&password=MARK&sslmode=require", "postgresql://host/db?user=u&sslmode=require"),
        ("postgresql://host/db?password=MARK", "postgresql://host/db"),
        ("https://a.blob.core.windows.net/c?sv=1&sig=MARK%2F&se=2", "https://a.blob.core.windows.net/c?sv=1&se=2"),
        ("s3://b/k?X-Amz-Credential=MARK&X-Amz-Signature=MARK", "s3://b/k"),
        ("could not open 'http://me:MARK@host/x', mail a@b.de", "could not open 'http://host/x', mail a@b.de"),
        ("abfs://container:MARK@account.dfs.core.windows.net/x", "abfs://account.dfs.core.windows.net/x"),
        *((same, same) for same in ("abfs://container@account.dfs.core.windows.net/x", "http://host:5000/a?x=1&y=2")),
        *((same, same) for same in ("file:///home/a@b/x", "who? me; you & she", "http://h/db?sslkey=/file&x=1")),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_workers_get_all_that_the_file_names_but_what_opens_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    home.credentials.touch(mode=0o600)
    home.credentials.write_text("AZURE_STORAGE_KEY=a\nMLFLOW_TRACKING_TOKEN=b\nFSSPEC_SFTP_PASSWORD=c\n")
    monkeypatch.setattr(os, "environ", {"AWS_SECRET_ACCESS_KEY": "d", "HF_TOKEN": "e", "AZURE_STORAGE_KEY": "first"})
    load_credentials(home)
    assert for_workers(home) == {
        "AWS_SECRET_ACCESS_KEY": "d", "AZURE_STORAGE_KEY": "first", "FSSPEC_SFTP_PASSWORD": "c",
    }  # fmt: skip


@pytest.mark.ray
def test_a_run_leaves_no_secret_in_any_file() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ms-"))  # not pytest's: Ray's sockets need a short path
    (folder / "sweep.yaml").write_text(SWEEP)
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {
        "RAY_TMPDIR": str(folder / "r"),
        "TMPDIR": str(folder / "t"),
        "MEANSWEEP_HOME": str(folder / "home"),
    }
    environment |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_EC2_METADATA_DISABLED": "true"}
    environment["MLFLOW_TRACKING_URI"] = f"http://me:{MARKER}@127.0.0.1:1/?token={MARKER}"
    (folder / "r").mkdir()
    (folder / "t").mkdir()
    try:
        words = [sys.executable, "-m", "orchestrator.cli", "run", "sweep.yaml"]
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        assert MARKER not in done.stdout + done.stderr
        assert list((folder / "r").rglob("raylet.out"))  # that is where Ray logs
        assert files_with(MARKER, folder) == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_home_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEANSWEEP_HOME", "~/sweeps")
    assert Home.default().root == Path.home() / "sweeps"


def test_a_head_that_takes_no_job_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**job: object) -> str:
        raise RuntimeError("Traceback (most recent call last):\n  File x\nException: No available agent to submit job")

    cluster = Cluster()
    monkeypatch.setattr(cluster, "submit_job", refuse)
    with pytest.raises(ClusterError, match=r"No available agent to submit job\. Its head must run Ray's job agent"):
        start(cluster, tmp_path, ["status"], None)
