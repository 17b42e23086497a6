"""The doctor's findings, on made-up nodes and on a real local Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.doctor import (
    Check,
    check_all,
    check_client,
    check_disk,
    check_mlflow,
    check_ray,
    check_token,
    checks_table,
)
from orchestrator.cli.doctor_nodes import judge_nodes, marked, this_node, touch
from orchestrator.paths import Home

HERE = {"versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}}


def storage(seen: bool = True, error: str = "", of: str = "home") -> dict[str, Any]:
    return {of: {"place": "/shared/home", "seen": seen, "writable": not error, "error": error}}


def facts(**changes: Any) -> dict[str, Any]:
    good = {
        "versions": dict(HERE["versions"]), "gpus": 2, "nvidia": 2, "ray_gpus": 2, "compiler": "cc",
        "storage": storage(), "free_gib": 100.0,
    }  # fmt: skip
    return {**good, **changes}


def judged(**nodes: dict[str, Any]) -> dict[str, Check]:
    return {check.name: check for check in judge_nodes(nodes, HERE)}


def test_nodes_that_are_alike_pass():
    checks = judged(a=facts(), b=facts(gpus=0, nvidia=0, ray_gpus=0))
    assert all(check.ok and not check.what_to_do for check in checks.values())
    assert checks["GPUs"].detail == "2 GPU(s), seen by torch and by Ray"


@pytest.mark.parametrize(
    ("changes", "name", "detail", "todo"),
    [
        (
            {"versions": {**HERE["versions"], "torch": "2.9.0"}},
            "versions",
            "b: torch 2.9.0 (here 2.13.0)",
            "constraints",
        ),
        ({"gpus": 0}, "GPUs", "b: 2 GPU(s) there, torch sees 0", "CUDA build"),
        ({"ray_gpus": 0}, "GPUs", "b: torch sees 2 GPU(s), Ray counts 0", "--num-gpus=2"),
        ({"compiler": None}, "compiler", "no C compiler on b", "gcc"),
        ({"storage": storage(seen=False)}, "storage", "/shared/home is a different folder on b", "NFS"),
        ({"storage": storage(error="denied")}, "storage", "/shared/home: b: denied", "right to write"),
        ({"free_gib": 1.0}, "temporary space", "b: 1.0 GiB", "free some"),
    ],
)
def test_a_node_that_differs_is_named_with_what_to_do(changes, name, detail, todo):
    checks = judged(a=facts(), b=facts(**changes))
    assert [check.name for check in checks.values() if not check.ok] == [name]
    assert detail in checks[name].detail
    assert todo in checks[name].what_to_do


def test_a_full_disk_is_told(tmp_path):
    full = check_disk(tmp_path / "not" / "yet", "disk space here", usage=lambda path: SimpleNamespace(free=2**30))
    assert not full.ok
    assert str(tmp_path) in full.detail
    assert "$MEANSWEEP_HOME" in full.what_to_do
    assert check_disk(tmp_path, "disk space here", usage=lambda path: SimpleNamespace(free=2**40)).ok


def test_mlflow_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")

    def down() -> None:
        raise ConnectionError("refused")

    def wrapped() -> None:
        try:
            down()
        except ConnectionError as error:
            raise RuntimeError("API request failed with exception HTTPConnectionPool(...)") from error

    assert check_mlflow(wrapped).detail == check_mlflow(down).detail
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    check = check_mlflow(down)
    assert not check.ok
    assert check.detail == "http://mlflow:5000: ConnectionError: refused"
    assert "meansweep sync" in check.what_to_do

    def refused() -> None:
        raise RuntimeError("API request to endpoint /x failed with error code 401 != 200. Response body: 'You are not")

    assert "rejects these" in check_mlflow(refused).detail
    assert "_PASSWORD" in check_mlflow(refused).what_to_do
    assert check_mlflow(lambda: None).ok


def test_an_open_cluster_is_told(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert not check_token().ok
    assert "get-auth-token" in check_token().what_to_do
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert check_token().ok


def test_a_place_that_other_nodes_do_not_see_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.cli.doctor_nodes.gpus_of_torch", lambda: 0)  # seconds each time

    def at(place: object) -> dict[str, Any]:
        return this_node({"home": str(place)}, "marker")["storage"]["home"]

    with marked(f"file://{tmp_path}", "marker"):
        assert at(tmp_path) == {"place": str(tmp_path), "seen": True, "writable": True, "error": ""}
        assert list(tmp_path.iterdir()) == [tmp_path / "marker"]
        (tmp_path / "other").mkdir()
        assert (at(tmp_path / "other")["seen"], at(tmp_path / "other")["writable"]) == (False, True)
        missing = at(tmp_path / "missing")
        assert (missing["seen"], missing["writable"]) == (False, False)
        assert missing["error"].endswith(f"No such file or directory: '{tmp_path}/missing'")
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]


def test_a_place_that_nobody_can_write_is_told_with_the_reason_not_as_another_one():
    closed = {node: facts(storage=storage(False, "PermissionError: denied", "checkpoints")) for node in ("a", "b")}
    checks = judged(**closed)
    assert checks["checkpoint storage"].detail == "/shared/home: a, b: PermissionError: denied"
    assert "s3fs" in checks["checkpoint storage"].what_to_do
    assert not touch("nosuchstore://x", "marker")["writable"]


def test_another_ray_here_than_there_is_told(monkeypatch):
    assert not check_client("http://c", "1.0.0").ok
    assert "ray[default,tune,train]==1.0.0" in check_client("http://c", "1.0.0").what_to_do
    assert check_client("http://c", None).ok


@pytest.mark.ray
def test_this_machine_is_well(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    checks = check_all(Home(tmp_path / "home"), mlflow=lambda: None)
    wrong = [check for check in checks if not check.ok and "space" not in check.name]  # this disk may be full
    assert wrong == []
    assert {check.name for check in checks} >= {"Ray", "Ray token", "versions", "GPUs", "storage", "MLflow"}
    assert list(Path(tmp_path / "home").iterdir()) == []  # it leaves nothing behind
    assert checks_table(checks).row_count == len(checks)


def test_a_cluster_that_is_not_there_is_a_finding_not_a_crash(tmp_path):
    checks = check_all(Home(tmp_path), address="http://127.0.0.1:9")
    assert [(check.name, check.ok) for check in checks] == [("job server", False)]
    assert "ssh -L" in checks[0].what_to_do


def test_a_ray_where_nobody_listens_is_a_finding_at_once(tmp_path):
    (check,) = check_ray(Home(tmp_path), "127.0.0.1:9")
    assert (check.name, check.ok) == ("Ray", False)
    assert check.detail.startswith("127.0.0.1:9: ConnectionRefusedError")
    assert "is the address right" in check.what_to_do
