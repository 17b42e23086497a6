"""What the commands decide for themselves."""

from types import SimpleNamespace

import pytest

from meanflow_core.errors import ConfigError, TrainingDiverged
from orchestrator.cli import main as cli
from orchestrator.cli import models
from orchestrator.cli.common import trial_and_sweep
from orchestrator.cli.models import _predicted, _prediction
from orchestrator.cli.running import _conclude
from orchestrator.cli.samples import _numbers
from orchestrator.cluster.remote_args import remote_address
from orchestrator.engine import control
from orchestrator.final.training import FinalResult, check_workers
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from tests import ROOT
from tests.orchestrator import toy
from tests.orchestrator.simulation import open_engine, run

QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"


def test_a_trial_and_its_sweep_are_taken_in_either_order():
    assert trial_and_sweep("7.2", "digits") == trial_and_sweep("digits", "7.2") == ("7.2", "digits")
    assert trial_and_sweep("7", None) == ("7", None)
    assert trial_and_sweep("7", "8") == ("7", "8")  # a sweep may be named so
    assert trial_and_sweep("digits", "moons") == ("digits", "moons")


def test_a_sweep_that_ends_with_a_paused_trial_says_how_that_goes_on(tmp_path, capsys):
    home = Home(tmp_path)
    engine = open_engine(home, toy.sweep(run_cap=2))
    engine.next()
    engine.ledger.close()
    control.request(home.sweep("toy"), control.pause_trial("0"))
    run(home, toy.sweep())
    _conclude(Ledger.open(home.sweep("toy")))
    assert "still paused: 0; `meansweep trial retry 0 toy`" in capsys.readouterr().out


def test_numbers_are_read_as_ranges_and_lists():
    assert _numbers("--labels", "0-3,7", low=0) == [0, 1, 2, 3, 7]
    with pytest.raises(ConfigError, match="--nfe"):
        _numbers("--nfe", "0", low=1)
    with pytest.raises(ConfigError, match="3-x"):
        _numbers("--labels", "3-x", low=0)


def test_an_address_is_taken_out_of_commands_that_run_on_the_cluster_only():
    at = ("http://h:1", None)
    assert remote_address(["status", "s", "--address", "http://h:1", "--json"]) == (*at, ["status", "s", "--json"])
    assert remote_address(["logs", "3", "--address=http://h:1"]) == (*at, ["logs", "3"])
    assert remote_address(["doctor", "--address", "http://h:1"])[0] is None  # it looks at both ends
    assert remote_address(["sync", "--check", "--address=http://h:1", "--remote-home", "/mnt/x"]) == (
        "http://h:1",
        "/mnt/x",
        ["sync", "--check"],
    )
    with pytest.raises(ConfigError, match="--address"):
        remote_address(["status", "--address"])


def test_a_training_runs_on_a_cluster_when_the_address_is_that_of_a_job_server():
    assert remote_address(["train", "best.yaml", "--address", "http://h:1"]) == (
        "http://h:1",
        None,
        ["train", "best.yaml"],
    )
    words = ["train", "best.yaml", "--workers", "2", "--address", "10.0.0.1:6379"]
    assert remote_address(words) == (None, None, words)


@pytest.mark.parametrize(
    ("long", "said"),
    [
        ([5.0, 6.0, 9.0], "predicted the order of the long ones: rank correlation 1.00"),
        ([5.0, 9.0, 6.0], "hardly predicted the order of the long ones: rank correlation 0.50"),
        ([9.0, 6.0, 5.0], "did NOT predict the order of the long ones: rank correlation -1.00"),
        ([5.0, 5.0, 5.0], "cannot be judged"),
    ],
)
def test_several_final_trainings_say_whether_the_short_runs_predicted_their_order(long, said):
    configs = [SimpleNamespace(evidence={"metric": "eval/fid_1nfe", "value": short}) for short in (1.0, 2.0, 4.0)]
    results = [SimpleNamespace(metrics={"eval/fid_1nfe": value}, score=value) for value in long]
    assert said in _prediction(_predicted(configs, results), len(long))


def test_of_several_final_trainings_one_that_diverges_does_not_keep_the_others_from_being_trained(
    tmp_path, monkeypatch, capsys
):
    def train(home, name, config, options, **more):
        if name == "digits-4":
            raise TrainingDiverged(70, "the loss is nan", {})
        metrics = {"eval/fid_1nfe": 2.0 * config.evidence["value"]}
        known = {"picture": None, "reproduction": None, "curve": {}, "best_step": None}
        score = metrics["eval/fid_1nfe"]
        return FinalResult(folder=tmp_path, steps=100, metrics=metrics, score=score, **known), None

    short = {"4": 1.0, "1": 2.0, "7": 3.0}
    found = [
        SimpleNamespace(evidence={"trial": trial, "metric": "eval/fid_1nfe", "value": value})
        for trial, value in short.items()
    ]
    monkeypatch.setattr(models, "_winners", lambda *_: found)
    monkeypatch.setattr(models, "_train_one", train)
    assert cli.run(["train", "digits", "--top", "3", "--home", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "predicted the order of the long ones: rank correlation 1.00 over 2" in out
    assert "digits-4 diverged at step 70: the loss is nan; going on with the next" in err
    assert err.splitlines()[-1].startswith("error: digits-4 diverged at step 70")


def test_more_workers_than_this_machine_can_run_are_refused():
    check_workers(2, 0.5, {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(ConfigError, match="each takes 1 CPU, and this machine has 2"):
        check_workers(3, 0.0, {"CPU": 2.0})
    with pytest.raises(ConfigError, match=r"each takes 0\.5 GPU, and this machine has 1"):
        check_workers(3, 0.5, {"CPU": 4.0, "GPU": 1.0})


def test_another_persons_sweep_is_changed_only_on_purpose(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("orchestrator.ledger.facts.user_name", lambda: "ada")
    run(Home(tmp_path), toy.sweep(run_cap=2))
    words = ["--home", str(tmp_path)]
    file = tmp_path / "sweep.yaml"
    file.write_text(Home(tmp_path).sweep("toy").spec.read_text().replace("run_cap: 2", "run_cap: 5"))
    commands = (["extend", "1", "toy"], ["edit", str(file)])
    monkeypatch.setattr("orchestrator.cli.common.user_name", lambda: "bob")
    for command in commands:
        assert cli.run([*command, *words]) == 2
        assert "belongs to ada" in capsys.readouterr().err
    assert Ledger.open(Home(tmp_path).sweep("toy")).revision == 0
    assert cli.run(["status", *words, "toy"]) == 0
    assert "ada on " in capsys.readouterr().out
    assert cli.run([*commands[0], *words, "--yes"]) == 0
    monkeypatch.setattr("orchestrator.cli.common.user_name", lambda: "ada")
    assert cli.run([*commands[1], *words]) == 0
    assert Ledger.open(Home(tmp_path).sweep("toy")).revision == 2
