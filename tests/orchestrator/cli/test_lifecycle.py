"""Every sweep of a home at a glance."""

import json

from orchestrator.cli import main as cli
from orchestrator.paths import Home
from tests.orchestrator import toy
from tests.orchestrator.simulation import run


def test_every_sweep_of_a_home_is_listed_also_a_damaged_one(tmp_path, capsys):
    home, words = Home(tmp_path), ["--home", str(tmp_path)]
    assert cli.run(["list", *words]) == 0
    assert "no sweep" in capsys.readouterr().out
    for name, cap in (("one", 1), ("two", 3), ("torn", 1)):
        run(home, toy.sweep(name=name, run_cap=cap))
    lines = home.sweep("torn").journal.read_bytes().splitlines(keepends=True)
    home.sweep("torn").journal.write_bytes(b"".join([lines[0], b"{torn\n", *lines[2:]]))
    assert cli.run(["list", *words, "--json"]) == 0
    one, torn, two = json.loads(capsys.readouterr().out)
    assert (one["sweep"], one["state"], one["trials"]["finished"], one["trials"]["total"]) == ("one", "finished", 1, 1)
    assert (two["sweep"], two["trials"]["total"]) == ("two", 3)
    assert one["best"]["trial"] == "0"
    assert one["owner"]["host"]
    assert 0 <= one["age_seconds"] < 600
    assert one["id"] != two["id"]
    assert set(one["disk"]) == {"checkpoints", "bytes", "here", "stored"}
    assert (torn["sweep"], torn["state"]) == ("torn", "damaged")
    assert "line 2" in torn["reason"]
    assert cli.run(["status", *words]) == 0  # without a name, where there are several
    shown = capsys.readouterr()
    assert [word in shown.out for word in ("one", "two", "torn", "damaged", "1 of 1", "3 of 3")] == [True] * 6
    assert "line 2" in shown.err
