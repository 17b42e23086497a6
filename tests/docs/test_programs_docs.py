"""The sweeps of docs/programs.md run, in an empty folder, as the page says."""

import re

import pytest
import yaml

from orchestrator.cli.main import run
from orchestrator.engine.start import start_sweep
from orchestrator.paths import Home
from orchestrator.runners.inline import run_inline
from orchestrator.spec.sweep import read_spec
from tests import ROOT

PAGE = (ROOT / "docs" / "programs.md").read_text()
FILES = dict(re.findall(r"^```\w+ title=(\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path / "home"))
    return tmp_path


def ran(folder, file):
    assert run(["plan", file]) == 0
    engine = start_sweep(Home(folder / "home"), read_spec(file))
    with engine.ledger:
        run_inline(engine)
        return engine.ledger.trials()


def test_an_unmodified_script_is_swept_and_its_best_run_again(folder, capsys):
    trials = ran(folder, "fit.yaml")
    assert [trial.state.value for trial in trials] == ["finished"] * 6
    assert run(["best", "fit", "-o", "best.yaml"]) == run(["train", "best.yaml"]) == 0
    assert f"loss {min(trial.metric for trial in trials):.4g}" in capsys.readouterr().out


def test_the_one_with_two_lines_more_is_stopped_early_and_repeated(folder):
    trials = ran(folder, "train.yaml")
    assert {trial.state.value for trial in trials if not trial.replicate} == {"finished", "pruned"}
    assert [trial.seed for trial in trials if trial.replicate] == [1, 2]
    assert len({trial.metric for trial in trials if trial.state.value == "finished"}) >= 3


def test_the_other_examples_are_read(folder):
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for text in blocks:
        content = {**yaml.safe_load(FILES["train.yaml"]), "trainer": None, "program": None, **yaml.safe_load(text)}
        (folder / "example.yaml").write_text(yaml.safe_dump(content))
        assert read_spec("example.yaml").program is not None
