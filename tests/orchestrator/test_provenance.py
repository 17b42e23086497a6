"""A sweep keeps what it needs to be repeated: the commit of the code, the changes to it, the installed packages."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator import provenance
from orchestrator.cluster.packaging import staged
from orchestrator.engine.engine import Engine
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.paths import Home
from orchestrator.provenance import Code, code_of, packages, record, recorded
from orchestrator.tracking.tracker import MemoryTracker
from tests.orchestrator import toy

TRAINER = "class Trainer:\n    rate = 1\n"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit that holds the package `trained`, importable."""
    folder = tmp_path / "repository"
    (folder / "trained").mkdir(parents=True)
    (folder / "trained" / "__init__.py").write_text(TRAINER)
    (folder / ".gitignore").write_text("installed/\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    monkeypatch.syspath_prepend(folder)
    code_of.cache_clear()
    return folder


def test_the_changes_applied_to_the_commit_give_the_code(repository: Path, tmp_path: Path) -> None:
    head = git(repository, "rev-parse", "HEAD").strip()
    assert code_of("trained") == Code(head, "")
    assert code_of("trained").name == head
    (repository / "trained" / "__init__.py").write_text(TRAINER.replace("1", "2"))
    (repository / "trained" / "new.py").write_text("x = 3\n")
    code_of.cache_clear()
    found = code_of("trained")
    assert found.name == f"{head} with changes"
    git(tmp_path, "clone", "-q", str(repository), "fresh")
    (tmp_path / "changes").write_text(found.changes)
    git(tmp_path / "fresh", "apply", str(tmp_path / "changes"))
    for name in ("__init__.py", "new.py"):
        there = tmp_path / "fresh" / "trained" / name
        assert there.read_text() == (repository / "trained" / name).read_text()


def test_an_installed_package_is_not_taken_for_the_repository_it_lies_in(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "installed" / "elsewhere").mkdir(parents=True)
    (repository / "installed" / "elsewhere" / "__init__.py").touch()
    monkeypatch.syspath_prepend(repository / "installed")
    assert code_of("elsewhere") == Code(None, "")
    assert code_of("no_such_package").name is None


def test_code_that_was_sent_to_a_cluster_knows_where_it_comes_from(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = code_of("trained")
    with staged("trained:Trainer") as folder:
        monkeypatch.syspath_prepend(folder)
        code_of.cache_clear()
        assert code_of("trained") == here
        assert here.commit is not None


def test_packages_are_listed_as_pip_takes_them() -> None:
    from importlib.metadata import version

    lines = packages().splitlines()
    assert {f"{name}=={version(name)}" for name in ("optuna", "pytest")} <= set(lines)
    assert len({line.partition("==")[0] for line in lines}) == len(lines)


def test_only_what_differs_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffs = iter(["", "", "a", "a", "b", ""])
    monkeypatch.setattr(provenance, "code_of", lambda _: Code("c", next(diffs)))
    for _ in range(6):
        record(tmp_path / "code", "trained")
    found = recorded(tmp_path / "code")
    assert {name: text for name, text in found.items() if name.startswith("changes")} == {
        "changes-01.diff": "a", "changes-02.diff": "b", "changes-03.diff": "",
    }  # fmt: skip
    assert found["packages-01.txt"] == packages()
    assert len(found) == 4


def test_every_driver_of_a_sweep_records_its_code_and_the_tracker_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = "a"

    def code(_: str) -> Code:
        return Code("0123abc", changes)

    for module in ("provenance", "engine.environment_check"):
        monkeypatch.setattr(f"orchestrator.{module}.code_of", code)
    home, tracker = Home(tmp_path), MemoryTracker()
    options: dict[str, Any] = {"tracker": lambda _: tracker}
    engine: Engine = start_sweep(home, toy.spec(toy.sweep()), **options)
    engine.ledger.close()
    assert engine.ledger.environment()["commit"] == "0123abc with changes"
    run = tracker.runs["sweep"]
    assert run.tags["mlflow.source.git.commit"] == "0123abc"
    assert (run.files["code/changes-01.diff"], run.files["code/packages-01.txt"]) == ("a", packages())
    changes = "b"
    resume_sweep(home, "toy", **options).ledger.close()
    assert run.files["code/changes-02.diff"] == "b"
