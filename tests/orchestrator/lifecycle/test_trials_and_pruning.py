"""Single trials deleted or run again, and checkpoints deleted by rule."""

import os
import time

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.cli import main as cli
from orchestrator.engine import control
from orchestrator.engine.dispatch import resume_point
from orchestrator.ledger.ledger import Ledger
from orchestrator.lifecycle.pruning import Rule, choose
from orchestrator.paths import Home
from orchestrator.results.sweep_status import counts_text, status_of
from orchestrator.tracking.mlflow_store import Store, connect
from orchestrator.tracking.mlflow_sync import check
from orchestrator.trials import TrialState
from orchestrator.worker.kept import kept_checkpoints
from tests.orchestrator import toy
from tests.orchestrator.lifecycle import made
from tests.orchestrator.simulation import open_engine


def meansweep(home, *words):
    return cli.run([*words, "--home", str(home.root)])


def test_a_deleted_trial_is_gone_everywhere_and_no_other_comes_in_its_place(tmp_path, capsys):
    home = Home(tmp_path)
    ledger = made.sweep(home, toy.sweep(run_cap=3, replicates={"top": 1, "seeds": 1}))
    best = min(ledger.trials(), key=lambda trial: trial.metric).id.partition(".")[0]
    values = ledger.trial(best).values
    assert meansweep(home, "trial", "delete", best, "toy") == 2
    assert "--yes" in capsys.readouterr().err
    assert meansweep(home, "trial", "delete", f"{best}.1", "toy", "--yes") == 2
    assert meansweep(home, "trial", "delete", "99", "toy", "--yes") == 2
    assert meansweep(home, "trial", "delete", best, "--yes") == 2  # the sweep is not named
    assert len(Ledger.open(home.sweep("toy")).trials()) == 4
    capsys.readouterr()
    assert meansweep(home, "trial", "delete", best, "toy", "--yes") == 0
    assert capsys.readouterr().out == f"toy: {best}, {best}.1 deleted\n"
    after = Ledger.open(home.sweep("toy"))
    left = [trial.id for trial in after.trials()]
    assert left == [trial for trial in ("0", "1", "2") if trial != best]
    assert sorted(path.name for path in home.sweep("toy").trials.iterdir()) == left
    assert [name.split()[1] for name in made.shown(home)["toy"] if name.startswith("trial")] == left
    assert check(home.sweep("toy").outbox, Store.of(home)).complete
    assert counts_text(status_of(after)) == "2 of 2 ended (2 finished)"
    assert meansweep(home, "leaderboard", "toy", "--json") == 0
    assert sorted(row["trial"] for row in made_rows(capsys)) == left
    with pytest.raises(ConfigError, match="no such trial"):
        control.request(home.sweep("toy"), control.retry_trial(best))
    assert meansweep(home, "extend", "2", "toy") == 0
    assert meansweep(home, "resume", "toy", "--inline") == 0
    now = Ledger.open(home.sweep("toy"))
    ids = [trial.id for trial in now.trials() if not trial.replicate]
    assert ids == [*left, "3", "4"]
    assert all(trial.values != values for trial in now.trials())
    assert check(home.sweep("toy").outbox, Store.of(home)).complete


def made_rows(capsys):
    return made.answer(capsys)


def test_a_grid_does_not_try_a_deleted_point_again(tmp_path):
    home = Home(tmp_path)
    made.sweep(home, toy.grid(x=(0.1, 0.4, 0.6)), shown=False)
    assert meansweep(home, "trial", "delete", "2", "toy", "--yes") == 0
    control.request(home.sweep("toy"), control.retry_trial("0", afresh=True))
    assert meansweep(home, "resume", "toy", "--inline") == 0
    assert [trial.id for trial in Ledger.open(home.sweep("toy")).trials()] == ["0", "1"]


def test_a_trial_of_a_sweep_that_runs_is_not_deleted(tmp_path, capsys):
    home = Home(tmp_path)
    engine = open_engine(home, toy.sweep(run_cap=2))
    engine.next()
    assert meansweep(home, "trial", "delete", "0", "toy", "--yes") == 1
    assert "is running" in capsys.readouterr().err
    engine.ledger.close()
    assert meansweep(home, "trial", "delete", "0", "toy", "--yes") == 0  # its driver is gone: it waits
    assert Ledger.open(home.sweep("toy")).trials() == []


def test_a_finished_trial_runs_again_from_its_beginning_if_that_is_said(tmp_path, capsys):
    home = Home(tmp_path)
    ledger = made.sweep(home, toy.sweep(run_cap=2), shown=False)
    metric = ledger.trial("0").metric
    assert meansweep(home, "trial", "retry", "0", "toy") == 2
    assert "--afresh" in capsys.readouterr().err
    assert meansweep(home, "trial", "retry", "0", "toy", "--afresh") == 0
    waiting = Ledger.open(home.sweep("toy")).trial("0")
    assert (waiting.state, waiting.reports) == (TrialState.WAITING, {})
    assert meansweep(home, "resume", "toy", "--inline") == 0
    again = Ledger.open(home.sweep("toy"))
    assert again.trial("0").state is TrialState.FINISHED
    assert again.trial("0").metric == metric  # the same seed
    assert (again.history("0").run, again.history("1").run) == (1, 0)


def test_a_finished_sweep_runs_again_from_its_own_file_beside_the_old_one(tmp_path, capsys):
    home = Home(tmp_path)
    before = made.sweep(home, toy.sweep(run_cap=3), shown=False).trials()
    file = str(home.sweep("toy").spec)
    assert meansweep(home, "run", file, "--inline") == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ("has finished", "extend N toy", "on_duplicate=run", "remove toy"))
    assert meansweep(home, "run", file, "--name", "again", "on_duplicate=run", "--inline") == 0
    again = Ledger.open(home.sweep("again")).trials()
    assert [trial.reports for trial in again] == [trial.reports for trial in before]
    assert not [trial for trial in again if "reused" in trial.labels]
    assert meansweep(home, "run", file, "--name", "taken-over", "--inline") == 0
    taken = Ledger.open(home.sweep("taken-over")).trials()
    assert all(trial.labels["reused"] for trial in taken)


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture
def pruned(tmp_path):
    """A home with a sweep of five trials, the last of which failed."""
    home = Home(tmp_path)
    content = toy.grid(x=(0.1, 0.4, 0.45, 0.6, 0.9), **toy.trained("Buggy", bug_from=0.8), retries=0)
    return home, made.sweep(home, content, shown=False)


def names(home):
    return {f"{kept.trial} {kept.step}" for kept in kept_checkpoints(home.sweep("toy"))}


def test_each_rule_deletes_what_it_says_and_never_the_best(pruned, capsys):
    home, ledger = pruned
    everything = names(home)
    best = min((t for t in ledger.trials() if t.metric is not None), key=lambda trial: trial.metric).id
    failed = [trial.id for trial in ledger.trials() if trial.state is TrialState.FAILED]
    assert failed == ["4"]

    def gone(**rule):
        return {f"{kept.trial} {kept.step}" for kept in choose(ledger, Rule(**rule))}

    assert not [name for name in gone() if name.startswith(f"{best} ")]
    assert gone() == {name for name in everything if not name.startswith(f"{best} ")}
    assert gone(failed=True) == {name for name in everything if name.startswith("4 ")}
    assert gone(keep=["last"]) == {name for name in gone() if not name.endswith((" 90", "4 30"))}
    assert gone(older_than=3600.0) == set()
    later = {f"{k.trial} {k.step}" for k in choose(ledger, Rule(older_than=3600.0), now=time.time() + 7200)}
    assert later == gone()
    assert len({name.split()[0] for name in gone(top=3)}) == 2
    with pytest.raises(SystemExit):
        cli.main(["prune", "toy", "--home", str(home.root)])
    assert "say what goes" in capsys.readouterr().err
    assert meansweep(home, "prune", "toy", "--failed") == 2  # nobody is there to ask
    assert meansweep(home, "prune", "toy", "--keep", "worst", "--yes") == 2
    assert meansweep(home, "prune", "toy", "--older-than", "soon", "--yes") == 2
    assert meansweep(home, "prune", "toy", "--top", "1", "--dry-run") == 0
    assert names(home) == everything
    expected = everything - gone()
    assert meansweep(home, "prune", "toy", "--top", "1", "--yes") == 0
    assert names(home) == expected
    folders = {f"{p.parts[-3]} {int(p.name[5:])}" for p in home.sweep("toy").trials.glob("*/checkpoints/step-*")}
    assert folders == expected
    after = Ledger.open(home.sweep("toy"))
    assert [trial.id for trial in after.trials() if trial.checkpoint] == [best]
    assert [trial.reports for trial in after.trials()] == [trial.reports for trial in ledger.trials()]


def test_a_pruned_trial_that_is_retried_starts_from_its_beginning(pruned):
    home, _ = pruned
    assert meansweep(home, "prune", "toy", "--failed", "--yes") == 0
    assert resume_point(Ledger.open(home.sweep("toy")).history("4")) == (0, None)


def test_a_trial_that_has_still_to_go_on_keeps_its_checkpoints(tmp_path):
    home = Home(tmp_path)
    made.sweep(home, toy.sweep(run_cap=3), shown=False)
    control.request(home.sweep("toy"), control.extend(1))
    engine_ledger = Ledger.open(home.sweep("toy"), write=True)
    with engine_ledger as ledger:
        worst = max(ledger.trials(), key=lambda trial: trial.metric).id
        control.restart(ledger, ledger.history(worst))  # it waits again, with what it had
    assert {kept.trial for kept in choose(Ledger.open(home.sweep("toy")), Rule())}.isdisjoint({worst})


def test_the_homes_own_mlflow_holds_links_and_frees_the_disk_with_the_checkpoint(tmp_path):
    home = Home(tmp_path)
    ledger = made.sweep(home, toy.sweep(run_cap=2))
    client = connect(Store.of(home))
    linked = {}
    for run in client.search_runs([client.get_experiment_by_name("toy").experiment_id]):
        trial = run.data.tags.get("meansweep.trial")
        if trial:
            listed = client.list_artifacts(run.info.run_id, "checkpoint")
            assert listed
            for entry in listed:
                place = f"{run.info.artifact_uri.removeprefix('file://')}/{entry.path}"
                linked.setdefault(trial, []).append(place)
                assert os.path.samefile(place, f"{ledger.trial(trial).checkpoint}/{os.path.basename(entry.path)}")
    best = min(ledger.trials(), key=lambda trial: trial.metric).id
    assert meansweep(home, "prune", "toy", "--top", "1", "--yes") == 0
    assert {trial: [os.path.exists(p) for p in places].count(True) for trial, places in linked.items()} == {
        best: len(linked[best]),
        ({"0", "1"} - {best}).pop(): 0,
    }


def test_checkpoints_in_a_bucket_are_pruned_there(tmp_path, bucket):
    home = Home(tmp_path)
    ledger = made.sweep(home, toy.sweep(run_cap=2))
    assert len(made.shown(home)["toy"]) == 3
    best = min(ledger.trials(), key=lambda trial: trial.metric).id
    assert meansweep(home, "prune", "toy", "--top", "1", "--yes") == 0
    assert {name.split("/")[2] for name in bucket.names()} == {best}
