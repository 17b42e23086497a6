"""Removing a sweep: all that is its own goes, and nothing else."""

import getpass
import json
import os
import shutil

import pytest

from orchestrator.cli import main as cli
from orchestrator.engine.start import resume_sweep
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_store import Store, connect
from orchestrator.tracking.mlflow_sync import check
from tests.orchestrator import toy
from tests.orchestrator.lifecycle import made


def remove(home, *words):
    return cli.run(["remove", *words, "--home", str(home.root)])


def test_all_of_a_sweep_goes_from_the_home_and_from_mlflow_and_nothing_of_its_neighbour(tmp_path, capsys):
    home = Home(tmp_path / "home")
    for name in ("one", "one-2"):
        made.sweep(home, toy.sweep(name=name, run_cap=2))
        made.training(home, f"{name}-0", name)
    made.training(home, "older", "one", sweep_id="another sweep that was called so")
    beside = {name: made.files(home.root / name) for name in ("sweeps/one-2", "final/one-2-0", "final/older")}
    runs = made.shown(home)
    assert len(runs["one"]) == 5
    assert runs["models"] == ["older 1", "one-0 1", "one-2-0 1"]
    assert remove(home, "one") == 2  # nobody is there to ask
    assert "--yes" in capsys.readouterr().err
    assert remove(home, "one", "--dry-run", "--json") == 0
    told = made.answer(capsys)
    assert (told["mlflow_runs"], told["trainings"], told["models"]) == (4, ["one-0"], ["models:/one-0/1"])
    assert told["bytes"] > 1000
    assert made.shown(home) == runs
    assert remove(home, "one", "--yes") == 0
    assert "MLflow" in capsys.readouterr().out
    assert sorted(path.name for path in home.sweeps.iterdir()) == ["one-2"]
    assert sorted(path.name for path in (home.root / "final").iterdir()) == ["older", "one-2-0"]
    assert {name: made.files(home.root / name) for name in beside} == beside
    after = made.shown(home)
    assert after["one"] == ["final older"]
    assert after["one-2"] == runs["one-2"]
    assert after["models"] == ["older 1", "one-2-0 1"]
    living = {run.info.run_id for e in ("one", "one-2") for run in _runs(home, e)}
    assert {path.name for path in home.artifacts.glob("*/*")} <= living
    assert remove(home, "one", "--yes") == 2  # there is none
    again = made.sweep(home, toy.sweep(name="one", run_cap=1))
    assert len(made.shown(home)["one"]) == 3
    assert again.id != told.get("id")


def _runs(home, experiment):
    client = connect(Store.of(home))
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_the_experiment_of_a_removed_sweep_goes_and_its_runs_do_not_come_back_with_the_next_of_its_name(tmp_path):
    home = Home(tmp_path)
    made.sweep(home, toy.sweep(run_cap=2))
    assert remove(home, "toy", "--yes") == 0
    assert "toy" not in made.shown(home)
    made.sweep(home, toy.sweep(run_cap=1))
    assert len(made.shown(home)["toy"]) == 2


@pytest.mark.parametrize("step", ["remove_shown", "delete_stored", "_delete:outbox", "_delete:journal.jsonl"])
def test_a_removal_that_is_cut_off_anywhere_can_be_done_again(tmp_path, monkeypatch, capsys, step):
    from orchestrator.lifecycle import removal

    home = Home(tmp_path)
    made.sweep(home, toy.sweep(run_cap=2))
    made.training(home, "toy-0", "toy")
    name, _, file = step.partition(":")
    whole = getattr(removal, name)

    def cut(*arguments, **options):
        if not file or arguments[0].name == file:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(removal, name, cut)
    assert remove(home, "toy", "--yes") == 130
    monkeypatch.setattr(removal, name, whole)
    assert cli.run(["list", "--json", "--home", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("[\n") :])[0]["state"] == "removing"
    assert cli.run(["resume", "toy", "--home", str(tmp_path)]) == 1
    assert "meansweep remove toy" in capsys.readouterr().err
    assert remove(home, "toy", "--yes") == 0
    assert list(home.sweeps.iterdir()) == []
    assert list((home.root / "final").iterdir()) == []
    assert made.shown(home) == {"models": []}


def test_a_sweep_that_runs_is_not_removed(tmp_path, capsys):
    home = Home(tmp_path)
    made.sweep(home, toy.sweep(run_cap=1), shown=False)
    with Ledger.open(home.sweep("toy"), write=True):
        before = made.files(home.root)
        assert remove(home, "toy", "--yes") == 1
        assert "is running" in capsys.readouterr().err
        assert made.files(home.root) == before


def test_what_links_name_is_never_touched(tmp_path, capsys):
    home, outside = Home(tmp_path / "home"), tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "precious").write_text("keep")
    made.sweep(home, toy.sweep(run_cap=2), shown=False)
    paths = home.sweep("toy")
    (paths.root / "mine").symlink_to(outside)
    (paths.trial("0").root / "notes").symlink_to(outside / "deep" / "precious")
    shutil.move(paths.trial("1").root, outside / "trial")
    paths.trial("1").root.symlink_to(outside / "trial")
    before = made.files(outside)
    assert remove(home, "toy", "--yes") == 0
    assert "is a link" in capsys.readouterr().out
    assert not paths.root.exists()
    assert made.files(outside) == before

    made.sweep(home, toy.sweep(run_cap=1), shown=False)
    shutil.move(paths.root, outside / "sweep")
    paths.root.symlink_to(outside / "sweep")
    before = made.files(outside)
    assert remove(home, "toy", "--yes") == 1
    assert "is a link" in capsys.readouterr().err
    assert made.files(outside) == before


@pytest.mark.parametrize("name", ["..", "../sweeps/toy", "toy/..", ".", "", "/", "toy/trials"])
def test_a_name_that_is_no_sweeps_removes_nothing(tmp_path, name):
    home = Home(tmp_path / "home")
    made.sweep(home, toy.sweep(run_cap=1), shown=False)
    before = made.files(tmp_path)
    assert remove(home, name, "--yes") == 2
    assert remove(home, "--yes") == 2  # none is named, though there is only one
    after = made.files(tmp_path)
    assert after == before


def test_in_a_bucket_only_the_folder_with_the_sweeps_own_id_goes(tmp_path, bucket, capsys):
    home = Home(tmp_path / "home")
    ledger = made.sweep(home, toy.sweep(run_cap=2), shown=False)
    made.sweep(Home(tmp_path / "other"), toy.sweep(run_cap=2), shown=False)
    client = bucket.client()
    beside = [
        *(f"sweeps/toy-{ledger.id}0/0/step-00000030/x", f"sweeps/toy-{ledger.id}.x", "sweeps/toy/0/step-00000030/x"),
        *("sweeps/x", f"sweeps/a/toy-{ledger.id}/0/x", f"elsewhere/toy-{ledger.id}/0/x"),
    ]
    for key in beside:
        client.put_object(Bucket="team", Key=key, Body=b"x")
    # What a note in the home says of places is not believed where they are none of the sweep's.
    file = home.sweep("toy").trial("0").root / "checkpoints.json"
    kept = json.loads(file.read_text())
    for number, place in enumerate(("s3://team/sweeps/x", f"s3://team/sweeps/a/../toy-{ledger.id}/0/step-00000031")):
        kept[f"step-0000003{number + 1}"] = {"metrics": {}, "bytes": 1, "place": place}
    kept["../../../../../precious"] = {"metrics": {}, "bytes": 1, "place": ""}
    file.write_text(json.dumps(kept))
    (tmp_path / "precious").mkdir()
    own = bucket.names(f"sweeps/toy-{ledger.id}/")
    others = sorted(set(bucket.names()) - set(own))
    assert len(own) >= 2
    assert remove(home, "toy", "--dry-run") == 0
    assert f"s3://team/sweeps/toy-{ledger.id}: checkpoints; " in capsys.readouterr().out
    assert cli.run(["list", "--json", "--home", str(home.root)]) == 0
    assert made.answer(capsys)[0]["disk"]["stored"] > 0
    assert remove(home, "toy", "--yes") == 0
    assert sorted(bucket.names()) == others
    assert (tmp_path / "precious").is_dir()


def test_a_bucket_that_is_away_leaves_the_sweep_to_be_removed_later(tmp_path, bucket, capsys):
    home = Home(tmp_path)
    ledger = made.sweep(home, toy.sweep(run_cap=1), shown=False)
    bucket.stop()
    assert remove(home, "toy", "--yes") == 1
    assert "s3://" in capsys.readouterr().err
    assert Ledger.open(home.sweep("toy")).id == ledger.id
    bucket.start()
    assert remove(home, "toy", "--yes") == 0
    assert bucket.names(f"sweeps/toy-{ledger.id}") == []


def test_a_shared_folder_without_a_url_is_a_store_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MEANSWEEP_STORAGE", str(tmp_path / "shared"))
    home = Home(tmp_path / "home")
    ledger = made.sweep(home, toy.sweep(run_cap=2), shown=False)
    here = tmp_path / "shared" / f"toy-{ledger.id}"
    assert len(list(here.glob("0/step-*"))) <= 2  # older ones are deleted there, as in a bucket
    (tmp_path / "shared" / "toy-other").mkdir()
    assert remove(home, "toy", "--yes") == 0
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["toy-other"]


def test_mlflow_that_is_away_keeps_the_sweep_unless_its_runs_are_to_be_kept(tmp_path, monkeypatch, capsys):
    home = Home(tmp_path)
    made.sweep(home, toy.sweep(run_cap=1), shown=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = made.files(home.sweep("toy").trials)
    assert remove(home, "toy", "--yes") == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
    assert made.files(home.sweep("toy").trials) == before
    assert remove(home, "toy", "--yes", "--keep-runs") == 0
    assert not home.sweep("toy").root.exists()


def test_the_sweep_of_somebody_else_is_said_to_be_that(tmp_path, monkeypatch, capsys):
    home = Home(tmp_path)
    made.sweep(home, toy.sweep(run_cap=1), shown=False)
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody else")
    assert remove(home, "toy", "--dry-run", "--keep-runs") == 0
    owner = os.environ.get("USER", "") or "root"
    assert f"of {Ledger.open(home.sweep('toy')).owner['user'] or owner} on" in capsys.readouterr().out


def test_the_best_is_kept_with_the_record(tmp_path, capsys):
    home = Home(tmp_path)
    ledger = made.sweep(home, toy.sweep(run_cap=4))
    made.training(home, "toy-0", "toy")
    before = [(trial.id, trial.metric) for trial in ledger.trials()]
    best = min(before, key=lambda pair: pair[1])[0]
    kept = made.files(home.sweep("toy").trial(best).root)
    assert kept
    assert remove(home, "toy", "--keep-best", "--yes") == 0
    assert f"all but trial {best}" in capsys.readouterr().out
    after = Ledger.open(home.sweep("toy"))
    assert [(trial.id, trial.metric) for trial in after.trials()] == before
    assert [trial.id for trial in after.trials() if trial.checkpoint] == [best]
    assert [path.name for path in home.sweep("toy").trials.iterdir()] == [best]
    assert made.files(home.sweep("toy").trial(best).root) == kept
    names = made.shown(home)
    assert [name.split()[1] for name in names["toy"] if name.startswith("trial")] == [best]
    assert names["models"] == ["toy-0 1"]
    assert check(home.sweep("toy").outbox, Store.of(home)).complete
    assert remove(home, "toy", "--keep-best", "--yes") == 0  # once more changes nothing
    assert check(home.sweep("toy").outbox, Store.of(home)).complete
    engine = resume_sweep(home, "toy")
    engine.ledger.close()
    assert remove(home, "toy", "--yes") == 0
    assert made.shown(home) == {"models": []}
