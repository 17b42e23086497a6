"""Whose a sweep is, and that a file goes on with no other sweep than its own."""

import json

import pytest
import yaml

from orchestrator.cli import main as cli
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from tests.orchestrator import toy
from tests.orchestrator.simulation import run


@pytest.mark.parametrize(
    "words",
    [
        *(["stop", "toy"], ["pause", "toy"], ["extend", "1", "toy"], ["retry", "--failed", "toy"]),
        *(["trial", "stop", "0", "toy"], ["trial", "pause", "0", "toy"], ["trial", "retry", "0", "toy"]),
        *(["trial", "delete", "0", "toy"], ["remove", "toy", "--keep-runs"], ["prune", "toy", "--keep", "best"]),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_command_on_the_sweep_of_somebody_else_asks_and_says_whose_it_is(tmp_path, monkeypatch, capsys, words):
    home = Home(tmp_path)
    monkeypatch.setenv("MEANSWEEP_USER", "ann")
    monkeypatch.setenv("MEANSWEEP_USER_HOST", "laptop")
    run(home, toy.sweep(run_cap=2))
    assert Ledger.open(home.sweep("toy")).owner == {"user": "ann", "host": "laptop"}
    worst = max(Ledger.open(home.sweep("toy")).trials(), key=lambda trial: trial.metric).id
    kept = {f"step-000000{step}": {"metrics": {"loss": 9.0 - step / 100}, "bytes": 1, "place": ""} for step in (30, 60)}
    (home.sweep("toy").trial(worst).root / "checkpoints.json").write_text(json.dumps(kept))
    before = home.sweep("toy").journal.read_bytes()
    monkeypatch.setenv("MEANSWEEP_USER", "ben")
    assert cli.run([*words, "--home", str(tmp_path)]) == 2
    said = "".join(capsys.readouterr())
    assert ("ann" in said, "laptop" in said, "--yes" in said) == (True, True, True)
    assert home.sweep("toy").journal.read_bytes() == before


def written(folder, content, base):
    """A sweep file with its base configuration in a file of its own."""
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({**content, "base": "base.yaml"}))
    return file


def test_a_file_goes_on_with_its_own_sweep_and_is_refused_for_another(tmp_path, capsys):
    home = Home(tmp_path / "home")
    content = toy.sweep(run_cap=2)
    base = content.pop("base")
    file = written(tmp_path, content, base)
    words = ["run", str(file), "--resume", "--inline", "--home", str(home.root)]
    assert cli.run(words) == 0
    first = Ledger.open(home.sweep("toy"))
    assert cli.run(["run", str(file), "--inline", "--home", str(home.root)]) == 2  # without being told to go on
    capsys.readouterr()
    assert cli.run(words) == 0
    assert "has finished" in capsys.readouterr().out
    assert cli.run(["extend", "1", "toy", "--home", str(home.root)]) == 0
    assert cli.run(words) == 0  # the file says what it said
    assert len(Ledger.open(home.sweep("toy")).trials()) == 3
    for other, other_base, said in (
        ({"run_cap": 9}, base, "run_cap: 3 -> 9"),
        ({"retries": 7}, base, "retries"),
        ({"seed": 5}, base, "seed"),
        ({}, {**base, "y": 0.25, "z": 1}, "training configuration differs"),
        ({}, {**base, "trainer": {"steps": 120, "eval_every": 30}}, "training configuration differs"),
    ):
        written(tmp_path, {**content, **other}, other_base)
        capsys.readouterr()
        assert cli.run(words) == 2
        assert said in (err := capsys.readouterr().err)
        assert "differs from its own" in err
    assert Ledger.open(home.sweep("toy")).id == first.id
    assert len(Ledger.open(home.sweep("toy")).trials()) == 3


def test_a_base_that_differs_where_no_trial_has_begun_is_refused_too(tmp_path, capsys):
    home = Home(tmp_path / "home")
    content = toy.sweep(run_cap=2)
    base = content.pop("base")
    spec = toy.spec({**content, "base": base})
    Ledger.create(home.sweep("toy"), spec).close()
    file = written(tmp_path, content, {**base, "seed": 3})
    assert cli.run(["run", str(file), "--resume", "--inline", "--home", str(home.root)]) == 2
    assert "base: another configuration" in capsys.readouterr().err


def test_an_id_that_was_given_before_is_the_sweeps(tmp_path):
    home = Home(tmp_path / "home")
    content = toy.sweep(run_cap=1)
    file = written(tmp_path, content, content.pop("base"))
    words = ["run", str(file), "--inline", "--home", str(home.root), "--id"]
    assert cli.run([*words, "../../x"]) == 2
    assert cli.run([*words, "0123456789abcdef"]) == 0
    assert Ledger.open(home.sweep("toy")).id == "0123456789abcdef"
