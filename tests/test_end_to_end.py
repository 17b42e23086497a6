"""The main job, small and real: a sweep on digits, its best configuration, the final training, one-step samples."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from orchestrator.cli.main import main, run
from orchestrator.final.training import training_in
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from tests import ROOT

BASE = {
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 24, "depth": 1},
    "optimizer": {"lr": 1e-3},
    "ema": {"decays": [0.9]},
    "trainer": {"steps": 9, "batch_size": 32, "eval_every": 9, "checkpoint_every": 3, "log_every": 1},
    "evaluation": {"samples": 40, "nfe": [1]},
}
SWEEP = {
    "name": "tiny",
    "base": "base.yaml",
    "set": {"trainer.steps": 6, "trainer.eval_every": 3},
    "method": "grid",
    "metric": {"name": "eval/fid_1nfe", "goal": "minimize"},
    "parameters": {"optimizer.lr": {"values": [1e-3, 1e3]}, "objective.time.ratio": {"values": [0.5]}},
    "early_terminate": {"type": "none"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished sweep of two trials, one of which diverges."""
    folder = tmp_path_factory.mktemp("a place with spaces")
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    assert run(["run", str(folder / "sweep.yaml"), "--inline", "--home", str(folder / "home")]) == 0
    return folder


def ask(place, capsys, *words):
    capsys.readouterr()
    code = run([*words, "--home", str(place / "home")])
    return code, capsys.readouterr().out


def test_the_leaderboard_ranks_the_finished_and_never_the_diverged_trial(place, capsys):
    code, out = ask(place, capsys, "leaderboard", "tiny", "--json")
    first, last = json.loads(out)
    assert code == 0
    assert (first["rank"], first["state"], first["steps"]) == (1, "finished", 6)
    assert first["config"]["optimizer.lr"] == 1e-3
    assert first["metric"] == first["mean"] > 0
    assert Path(first["checkpoint"]).is_dir()
    assert (last["rank"], last["failure"]["kind"]) == (None, "diverged")


def test_the_data_that_the_workers_saw_is_recorded_and_no_trial_is_said_to_have_seen_other(place, capsys):
    trials = json.loads(ask(place, capsys, "export", "tiny", "--json")[1])
    assert [trial["labels"] for trial in trials] == [{}, {}]
    assert Ledger.open(Home(place / "home").sweep("tiny")).environment()["fingerprint"]


def test_status_counts_and_the_trials_pictures_are_there(place, capsys):
    code, out = ask(place, capsys, "status", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["sweep"], found["state"]) == ("tiny", "finished")
    assert (found["trials"]["finished"], found["trials"]["failed"]) == (1, 1)
    assert found["disk"]["checkpoints"] == len(list(place.glob("home/sweeps/tiny/trials/*/checkpoints/step-*"))) > 0
    picture = place / "home/sweeps/tiny/trials/0/images/samples-00000006.png"
    assert np.asarray(Image.open(picture)).std() > 0


def test_best_has_the_bases_length_and_the_trials_everything_else(place, capsys):
    out = place / "best.yaml"
    assert ask(place, capsys, "best", "tiny", "-o", str(out))[0] == 0
    best = yaml.safe_load(out.read_text())
    assert best["trainer"]["steps"] == 9
    assert (best["optimizer"]["lr"], best["objective"]["time"]["ratio"]) == (1e-3, 0.5)
    assert (best["evidence"]["sweep"], best["evidence"]["trial"]) == ("tiny", "0")
    assert list(best["evidence"]["curve"]) == [3, 6]


def test_the_final_training_reproduces_its_trial_and_its_weights_sample_alone(place, capsys):
    best = place / "best.yaml"
    assert ask(place, capsys, "best", "tiny", "-o", str(best))[0] == 0
    code, out = ask(place, capsys, "train", str(best), "--no-register", "--json")
    (result,) = json.loads(out)
    assert code == 0
    assert (result["steps"], result["reproduced"], result["largest_difference"]) == (9, True, 0.0)
    rows = [json.loads(line) for line in (place / "home/final/tiny-0/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/fid_1nfe" in row] == [
        3,
        6,
        9,
    ]  # 9 is its own, the others are the trial's
    grid = place / "grid.png"
    code, _ = ask(place, capsys, "sample", str(best), "-n", "20", "--nfe", "1,2", "--labels", "0-3", "-o", str(grid))
    assert code == 0
    assert np.asarray(Image.open(grid)).shape[2] == 3


def test_the_same_training_again_has_nothing_left_to_do(place, capsys):
    best = place / "best.yaml"
    ask(place, capsys, "best", "tiny", "-o", str(best))
    ask(place, capsys, "train", str(best), "--no-register", "--json")
    weights = place / "home/final/tiny-0/weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert ask(place, capsys, "train", str(best), "--no-register", "--json")[0] == 0
    assert weights.stat().st_mtime_ns == before


def test_a_training_that_runs_and_one_of_another_configuration_are_left_alone(place, capsys):
    best, folder = str(place / "best.yaml"), place / "home/final/tiny-0"
    ask(place, capsys, "best", "tiny", "-o", best)
    ask(place, capsys, "train", best, "--no-register", "--json")
    events = (folder / "outbox/events.jsonl").read_bytes()
    with training_in(folder):
        assert ask(place, capsys, "train", best, "--no-register")[0] == 1
    assert ask(place, capsys, "train", best, "optimizer.lr=0.002", "--no-register")[0] == 2
    assert (folder / "outbox/events.jsonl").read_bytes() == events


def test_logs_and_sync_take_names_as_people_type_them(place, capsys):
    assert "trial 0, attempt 0" in ask(place, capsys, "logs", "0", "tiny")[1]
    assert "trial 0, attempt 0" in ask(place, capsys, "logs", "0", "--sweep", "tiny")[1]
    code, out = ask(place, capsys, "sync", "tiny-0", "--check")
    assert (code, "each exactly once" in out) == (0, True)


def test_a_sweep_of_the_same_name_is_refused_with_what_to_do(place, capsys):
    code = run(["run", str(place / "sweep.yaml"), "--inline", "--home", str(place / "home")])
    assert code == 2
    assert "meansweep extend N tiny" in capsys.readouterr().err


def test_sync_finds_every_point_in_mlflow_exactly_once(place, capsys):
    code, out = ask(place, capsys, "sync", "tiny", "--check")
    assert (code, "each exactly once" in out) == (0, True)


def test_a_trial_runs_again_alone_with_the_same_result(place, capsys):
    code, out = ask(place, capsys, "rerun", "0", "tiny", "--inline")
    assert code == 0
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    for line in lines:
        now, before = line.partition("fid_1nfe ")[2].rstrip(")").split(" (was ")
        assert now == before
    assert len(lines) == 2


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_broken_file_lists_every_mistake_and_starts_nothing(tmp_path, capsys, command):
    file = tmp_path / "broken.yaml"
    file.write_text(
        "name: broken\nmethod: tpee\nmetrik: {name: eval/fid_1nfe}\nrun_cap: -3\n"
        "parameters:\n  objective.time.ratoi: {min: 0.0, max: 1.0}\n  optimizer.lr: {min: 3.0e-3, max: 1.0e-4}\n"
    )
    assert run([command, str(file), "--home", str(tmp_path / "home")]) == 2
    error = capsys.readouterr().err
    for line, key, hint in ((2, "method", "tpe"), (3, "metrik", "metric"), (6, "ratoi", "objective.time.ratio")):
        assert any(f"broken.yaml:{line}" in row and key in row and hint in row for row in error.splitlines()), error
    assert "run_cap" in error
    assert "optimizer.lr" in error
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["leaderboard", "nothing"], "no such sweep"),
        (["leaderboard"], "no sweep"),
        (["sample", "nothing"], "no such weights file"),
        (["train", "nothing.yaml"], "cannot be read"),
        (["leaderboardd"], "leaderboard"),
        (["plan"], "FILE"),
    ],
)
def test_wrong_input_is_exit_code_2_with_a_hint(tmp_path, capsys, words, part):
    home = [] if words in (["leaderboardd"], ["plan"]) else ["--home", str(tmp_path)]
    assert run([*words, *home]) == 2
    assert part in capsys.readouterr().err


def test_help_needs_none_of_the_heavy_packages():
    heavy = ("torch", "ray", "optuna", "mlflow", "pandas", "scipy", "plotly", "omegaconf")
    code = f"import sys, orchestrator.cli.main; print([m for m in {heavy!r} if m in sys.modules])"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_installed_command_is_the_one_that_is_tested():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert [EntryPoint(name, place, "").load() for name, place in scripts.items()] == [main]
