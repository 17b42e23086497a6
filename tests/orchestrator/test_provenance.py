"""A sweep keeps what it needs to be repeated: the commit of the code, the changes to it, the installed packages."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meanflow_core.errors import ConfigError
from orchestrator.cluster.packaging import staged
from orchestrator.engine.engine import Engine
from orchestrator.engine.environment_check import code_version
from orchestrator.engine.start import resume_sweep, start_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.provenance import Code, code_of, packages, record, recorded
from orchestrator.results.leaderboard_rows import leaderboard
from orchestrator.results.leaderboard_text import leaderboard_table
from orchestrator.runners.inline import run_inline
from orchestrator.source_files import own_files, packages_of
from orchestrator.tracking.tracker import MemoryTracker
from tests.orchestrator import toy
from tests.orchestrator.simulation import run

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
    for _ in range(6):
        record(tmp_path / "code", Code("c", next(diffs)))
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


# ------------------------------------------------------------------------------- what a trainer imports


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trainer in a folder of its own that imports a helper, which imports another."""
    files = {
        "my_trainer.py": "import numpy\nfrom helper import x\ndef late():\n    from parts import loss\n",
        "helper.py": "from parts.inner import y as x\n",
        "parts/__init__.py": "",
        "parts/inner.py": "from . import deeper\ny = deeper.z\n",
        "parts/deeper.py": "z = 1\n",
        "parts/loss.py": "w = 1\n",
        "bystander.py": "raise SystemExit\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_every_module_that_a_trainer_imports_is_its_code(trainer: Path) -> None:
    first, *others = (str(file.relative_to(trainer)) for file in own_files("my_trainer"))
    assert first == "my_trainer.py"
    parts = ("__init__.py", "deeper.py", "inner.py", "loss.py")
    assert sorted(others) == sorted(["helper.py", *(f"parts/{name}" for name in parts)])


@pytest.mark.parametrize("name", ["my_trainer.py", "helper.py", "parts/inner.py", "parts/deeper.py", "parts/loss.py"])
def test_a_change_of_any_module_that_a_trainer_imports_is_seen(trainer: Path, name: str) -> None:
    before = code_version("my_trainer:Trainer")
    (trainer / "bystander.py").write_text("other = 1\n")
    assert code_version("my_trainer:Trainer") == before
    (trainer / name).write_text((trainer / name).read_text() + "# changed\n")
    assert code_version("my_trainer:Trainer") != before


HIDDEN = """
import importlib
from tests.orchestrator.toy import Curve
class Trainer(Curve):
    def train(self, steps):
        importlib.import_module("hidden_" + "helper").run()
        return super().train(steps)
"""


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A trainer that imports a helper by a computed name, while it trains."""
    (tmp_path / "hiding_trainer.py").write_text(HIDDEN)
    (tmp_path / "hidden_helper.py").write_text("def run(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("hiding_trainer", "hidden_helper"):
        sys.modules.pop(name, None)


def test_a_change_of_a_helper_that_is_imported_by_a_computed_name_is_seen(
    hidden: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path / "home")
    content = toy.sweep(name="first", run_cap=2, trainer="hiding_trainer:Trainer")

    def finish(name: str) -> list[dict[str, Any]]:
        engine = start_sweep(home, toy.spec({**content, "name": name}))
        with engine.ledger:
            run_inline(engine)
        return [dict(trial.labels) for trial in engine.ledger.trials()]

    assert finish("first") == [{}, {}]
    assert "hidden_helper" in Ledger.open(home.sweep("first")).environment()["loaded"]
    assert [labels["reused"] for labels in finish("second")] == ["first/0", "first/1"]
    (hidden / "hidden_helper.py").write_text("def run(): return 'other'\n")
    for name in ("hiding_trainer", "hidden_helper"):
        sys.modules.pop(name, None)
    with pytest.raises(ConfigError, match="code imported by a computed name"):
        resume_sweep(home, "first", strict=True)
    with caplog.at_level("INFO"):
        assert finish("third") == [{}, {}]
    assert "nothing of first is reused: code imported by a computed name" in caplog.text


@pytest.mark.parametrize(
    "code",
    [
        "import runpy\nx = runpy.run_path('tools/odd.py')\n",
        "exec(open('tools/odd.py').read())\n",
        "import os\nfrom importlib import util\nwhere = os.path.join(os.path.dirname(__file__), 'tools/odd.py')\n"
        "x = util.spec_from_file_location('odd', where)\n",
    ],
)
def test_a_change_of_a_file_that_is_named_by_its_path_is_seen(trainer: Path, code: str) -> None:
    (trainer / "tools").mkdir()
    (trainer / "tools" / "odd.py").write_text("from helper import x\n")
    (trainer / "my_trainer.py").write_text(code)
    before = code_version("my_trainer:Trainer")
    assert {"tools", "helper", "parts"} <= set(packages_of("my_trainer"))
    for name in ("tools/odd.py", "parts/deeper.py"):
        (trainer / name).write_text((trainer / name).read_text() + "# changed\n")
        after, before = before, code_version("my_trainer:Trainer")
        assert after != before


def test_a_helper_on_a_path_that_the_trainer_adds_is_compared_where_it_lies(
    hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hidden / "extra").mkdir()
    (hidden / "hidden_helper.py").rename(hidden / "extra" / "hidden_helper.py")
    added = f"import sys\nsys.path.append({str(hidden / 'extra')!r})\n"
    (hidden / "hiding_trainer.py").write_text(added + HIDDEN)
    home = Home(tmp_path / "home")
    monkeypatch.setattr(sys, "path", [*sys.path])
    content = toy.sweep(name="first", run_cap=1, trainer="hiding_trainer:Trainer")
    engine = start_sweep(home, toy.spec(content))
    with engine.ledger:
        run_inline(engine)
    assert "extra/hidden_helper.py" in Ledger.open(home.sweep("first")).environment()["loaded"]
    sys.path.remove(str(hidden / "extra"))  # as in the process of a later command
    resume_sweep(home, "first", strict=True).ledger.close()
    (hidden / "extra" / "hidden_helper.py").write_text("def run(): return 'other'\n")
    with pytest.raises(ConfigError, match="code imported by a computed name"):
        resume_sweep(home, "first", strict=True)


def test_what_a_trainer_imports_beside_its_package_is_sent_with_it(trainer: Path, tmp_path: Path) -> None:
    assert packages_of("my_trainer") == ["helper", "my_trainer", "parts"]
    with staged("my_trainer:Trainer", packages=packages_of("my_trainer")) as folder:
        sent = {path.name for path in folder.iterdir()}
    assert {"helper.py", "my_trainer.py", "parts"} <= sent
    assert "bystander.py" not in sent


def test_other_packages_are_another_environment_and_their_results_are_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    versions = ["numpy==1.0\nray==2.0\n", "numpy==1.1\nray==2.0\nnew==3.0\n"]
    trials = {}
    for name, installed in zip(("first", "second"), versions, strict=True):
        monkeypatch.setattr("orchestrator.engine.environment_check.packages", lambda text=installed: text)
        monkeypatch.setattr("orchestrator.provenance.packages", lambda text=installed: text)
        trials[name] = run(home, toy.sweep(name=name, run_cap=1))
    assert [trial.labels for trial in trials["second"]] == [{}]
    with pytest.raises(ConfigError, match=r"installed packages: numpy 1.0 -> 1.1, new 3.0 is new"):
        resume_sweep(home, "first", strict=True)


def test_a_result_that_was_reused_says_so_wherever_it_is_shown(tmp_path: Path) -> None:
    home = Home(tmp_path)
    run(home, toy.sweep(name="first", run_cap=1))
    [trial] = run(home, toy.sweep(name="second", run_cap=1))
    assert trial.labels["reused"] == "first/0"
    spec = toy.spec(toy.sweep(name="second", run_cap=1))
    [row] = rows = leaderboard(spec, [trial])
    assert (row.reused, row.to_json()["reused"]) == ("first/0", "first/0")
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(leaderboard_table(spec, rows))
    assert "trial 0 was not trained here: it is the result of first/0" in console.export_text()


def test_files_in_folders_without_init_are_found_at_any_depth(tmp_path, monkeypatch):
    (tmp_path / "lab" / "team").mkdir(parents=True)
    (tmp_path / "lab" / "team" / "nets.py").write_text("x = 1\n")
    (tmp_path / "train_it.py").write_text("import lab.team.nets\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert own_files("lab.team.nets") == [tmp_path / "lab" / "team" / "nets.py"]
    assert own_files("train_it") == [tmp_path / "train_it.py", tmp_path / "lab" / "team" / "nets.py"]
