"""Sweep files of W&B run as they are, with a program that stands in for theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.engine.start import start_sweep
from orchestrator.paths import Home
from orchestrator.planning.preflight import missing_here
from orchestrator.runners.inline import run_inline
from orchestrator.spec.sweep import SweepSpec, read_spec
from orchestrator.trials.trial import TrialRecord
from tests import ROOT

FILES = sorted((ROOT / "tests/orchestrator/data/wandb").glob("*.yaml"))
STAND_IN = """
import json, os, sys
from orchestrator import report
with open(os.path.join(os.environ["MEANSWEEP_FOLDER"], "argv.json"), "w") as file:
    json.dump(sys.argv[1:], file)
for step in range(1, 6):
    report(step, **{METRIC: step + sum(map(ord, "".join(sys.argv[1:]))) / 1000})
"""
SHELL = """
printf '["%s", "%s"]' "$1" "$2" > "$MEANSWEEP_FOLDER/argv.json"
echo '{"step": 1, "score": 0.5}' >> "$MEANSWEEP_REPORTS"
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a file and returns the sweep, its trials, and what each was called with."""
    monkeypatch.setenv("STAND_IN_ROOT", "/data")

    def run(name: str) -> tuple[SweepSpec, list[TrialRecord], dict[str, list[str]]]:
        text = (ROOT / f"tests/orchestrator/data/wandb/{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text)
        spec = read_spec(tmp_path / f"{name}.yaml")
        program = STAND_IN.replace("METRIC", repr(spec.metric.name))
        for file in ("train.py", "scripts/train.py", "scripts/__init__.py", "pkg/__main__.py", "pkg/__init__.py"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("" if "__init__" in file else program)
        (tmp_path / "train.sh").write_text(SHELL)
        spec = read_spec(tmp_path / f"{name}.yaml")
        assert missing_here(spec) == []
        engine = start_sweep(Home(tmp_path / "home"), spec)
        with engine.ledger:
            run_inline(engine)
            trials, paths = engine.ledger.trials(), engine.paths
        words = {trial.id: json.loads((paths.trial(trial.id).root / "argv.json").read_text()) for trial in trials}
        return spec, trials, words

    return run


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_file_runs_as_it_is(run, name):
    spec, trials, words = run(name)
    assert {trial.state.value for trial in trials} <= {"finished", "pruned"}, [trial.failure for trial in trials]
    assert len(trials) == (spec.run_cap or spec.space.grid_size())
    assert len({tuple(each) for each in words.values()}) == len(trials)
    assert all(trial.metric is not None for trial in trials)


def test_there_are_twelve_shapes():
    assert len(FILES) == 12


def test_arguments_are_those_that_wandb_gives(run):
    _, trials, words = run("boolean_flags")
    assert words["0"] == ["--max_steps", "100", "--lr=0.001", "--use-norm"]
    assert words["1"] == ["--max_steps", "100", "--lr=0.001"]
    assert len(trials) == 2


def test_hydra_gets_overrides_and_a_name_with_spaces_is_a_title(run):
    spec, trials, words = run("hydra")
    values = trials[0].values
    assert words["0"] == [
        "+experiment=blue",
        f"trainer.lr={values['trainer.lr']}",
        f"model.encoder.depth={values['model.encoder.depth']}",
        "hydra.run.dir=runs/${now:%Y%m%d}/x",
    ]
    assert (spec.name, spec.title) == ("Encoder-depth-vs.-width-second-try", "Encoder depth vs. width (second try)")
    assert SweepSpec.from_source(spec.source).title == spec.title


def test_json_is_that_of_the_file(run, tmp_path):
    _, trials, words = run("json_file")
    assert words["0"][0] == "--config"
    assert json.loads(Path(words["0"][1]).read_text()) == {"top.p": 0.9, "temperature": 0.1}
    _, trials, words = run("module_and_json")
    given = json.loads(words["0"][0])
    assert given == {"nothing": None, **trials[0].values}


def test_what_else_wandb_says(run):
    spec, _, _ = run("hyperband_down")
    assert spec.rungs({}) == [1, 3]  # 10 / 9 and 10 / 3, rounded down as in W&B
    assert any("rungs are at 1, 3 steps" in note for note in spec.notes)
    spec, _, words = run("launch")
    assert spec.max_concurrent == 2
    assert any("`num_workers` is `max_concurrent`" in note for note in spec.notes)
    spec, _, words = run("torchrun")
    assert words["0"] == ["--root=/data/sub", "--path=data/train", "--lr=0.01"]
    spec, _, _ = run("hyperband_up")
    assert spec.rungs({})[:3] == [2, 4, 8]
    assert any("not used beside `min_iter`" in note for note in spec.notes)
