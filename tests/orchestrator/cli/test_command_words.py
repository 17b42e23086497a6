"""What the commands say to people about a sweep that has ended."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from optuna.storages.journal import JournalFileBackend

from meanflow_core.config import load_config
from meanflow_core.run.folder import RunFolder
from orchestrator.api.driving import finish_sending
from orchestrator.cli.examples import EXAMPLES
from orchestrator.cli.main import parser, run
from orchestrator.cluster.remote_args import remote_address
from orchestrator.paths import Home
from orchestrator.results.winner import training_name
from tests import ROOT
from tests.orchestrator import simulation, toy


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = Home(tmp_path / "state")
    simulation.run(home, toy.sweep(run_cap=2))
    monkeypatch.setenv("MEANSWEEP_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    return home


def said(capsys, *words, code=0):
    assert run(list(words)) == code
    out, err = capsys.readouterr()
    return out + err


def test_a_full_disk_is_one_line_and_the_sweep_goes_on_once_there_is_room(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(toy.grid()))
    write, written = JournalFileBackend.append_logs, []

    def until_full(backend, logs):
        written.append(logs)
        if len(written) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(backend, logs)

    with monkeypatch.context() as full:
        full.setattr(JournalFileBackend, "append_logs", until_full)
        full.setattr("orchestrator.tracking.tracker.MlflowTracker.close", lambda *_, **__: 0)
        told = said(capsys, "run", str(file), "--inline", code=1)
    assert told.splitlines()[-1].startswith("error: ")
    assert "No space left on device); nothing recorded is lost: make room, then `meansweep resume toy`" in told
    assert "Traceback" not in told
    monkeypatch.setattr("orchestrator.tracking.tracker.MlflowTracker.close", lambda *_, **__: 0)
    assert "toy: finished" in said(capsys, "resume", "--inline")


def test_a_plan_that_does_not_fit_its_budget_fails(tmp_path, capsys):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(toy.sweep(run_cap=6, budget={"trials": 5})))
    where = ("--home", str(tmp_path / "home"))
    told = said(capsys, "plan", str(file), *where, code=1)
    assert "\ndoes not fit: 6 trials" in told
    assert "error: it does not fit: 6 trials" in told
    assert said(capsys, "plan", str(file), "--budget", *where, code=1) == told  # of earlier releases
    said(capsys, "plan", str(file), "run_cap=5", *where)


def test_a_plan_of_what_is_not_here_fails_and_is_still_said(tmp_path, capsys):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(toy.sweep(run_cap=6, trainer="nowhere.at:All")))
    told = said(capsys, "plan", str(file), "--home", str(tmp_path / "home"), code=1)
    assert "missing here: trainer: there is no module 'nowhere.at'" in told
    assert told.endswith("error: 1 thing missing here\n")
    assert not (tmp_path / "home").exists()


def test_a_finished_sweep_is_not_started_for_nothing(home, capsys):
    assert said(capsys, "resume") == "toy has finished; `meansweep extend N toy` lets it run more trials\n"
    assert "has ended already" in said(capsys, "stop", code=2)


def test_the_number_to_extend_by_is_taken_before_or_after_the_sweep(home, capsys):
    for words in (["+2", "toy"], ["toy", "2"], ["2"]):
        assert "run_cap" in said(capsys, "extend", *words)
    assert "must be a number of trials" in said(capsys, "extend", "toy", code=2)
    assert "must be a number of trials" in said(capsys, "extend", "0", code=2)


def test_a_picture_of_samples_is_a_png(home, capsys):
    assert "must end in .png" in said(capsys, "sample", "best", "-o", "grid", code=2)


def test_the_winner_of_a_trainer_of_ones_own_is_its_plain_configuration(home, capsys):
    said(capsys, "best", "-o", "best.yaml")
    best = yaml.safe_load(Path("best.yaml").read_text())
    assert set(best["evidence"]) > {"trainer", "trial", "value"}
    found = {trial.id: trial.values for trial in simulation.read(home)}[best["evidence"]["trial"]]
    assert {key: best[key] for key in found} == found
    assert best["trainer"]["steps"] == 90
    assert "your own code" in said(capsys, "train", "best.yaml", code=2)
    assert "MeanFlow trainer" in said(capsys, "train", "toy", "--top", "2", code=2)


def test_the_length_of_a_base_comes_back_for_a_trainer_of_ones_own(tmp_path):
    from orchestrator.ledger.ledger import Ledger
    from orchestrator.results.leaderboard_rows import leaderboard
    from orchestrator.results.winner import winning_mapping

    home = Home(tmp_path)
    simulation.run(home, toy.sweep(run_cap=1, base={"trainer": {"steps": 500}}, set={"trainer.steps": 30}))
    ledger = Ledger.open(home.sweep("toy"))
    spec, trials = ledger.spec(), ledger.trials()
    assert trials[0].steps == 30
    assert winning_mapping(spec, trials, leaderboard(spec, trials))["trainer"]["steps"] == 500


def test_a_log_is_found_by_trial_and_sweep_or_by_the_sweep_alone(home, capsys):
    log = home.sweep("toy").trial("1").log
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("of the trial\n")
    home.sweep("toy").driver_log.write_text("of the driver\n")
    assert said(capsys, "logs", "1", "toy") == said(capsys, "logs", "1", "--sweep", "toy") == "of the trial\n"
    assert said(capsys, "logs", "toy") == said(capsys, "logs") == "of the driver\n"
    assert "trials with one: 1" in said(capsys, "logs", "0", code=2)
    assert "no such sweep" in said(capsys, "logs", "tyo", code=2)


def test_a_file_that_cannot_be_written_is_said_in_a_line(home, capsys):
    assert said(capsys, "schema", "-o", f"gone{os.sep}schema.json", code=1).startswith("error: gone")


def test_a_sweep_in_the_place_of_a_training_configuration_is_said_to_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text("method: random\nparameters: {seed: {value: 1}}\n")
    assert "`meansweep run sweep.yaml`" in said(capsys, "train", "sweep.yaml", code=2)


def test_a_final_training_of_the_same_name_is_refused_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEANSWEEP_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text("trainer: {steps: 9}\n")
    RunFolder(tmp_path / "final" / "best").claim(load_config({"trainer.steps": 8}))
    text = said(capsys, "train", "best.yaml", code=2)
    assert text.startswith("--name: is a training of another configuration (trainer.steps: 8 there, 9 here); ")


def test_the_winners_of_two_sweeps_and_a_file_with_a_name_of_its_own_are_trained_as_three():
    of_digits, of_moons = ({"sweep": name, "trial": "7.2"} for name in ("digits", "moons"))
    assert training_name("a/best.yaml", of_digits) == "digits-7.2"
    assert training_name("best.yaml", of_moons) == "moons-7.2"
    assert training_name("wider.yaml", of_digits) == "wider"
    assert training_name("best.yaml", {}) == "best"  # somebody's own


def test_what_is_exported_goes_to_the_file_that_is_named_also_as_json(home, capsys):
    assert said(capsys, "export", "--json", "-o", "t.json") == "t.json\n"
    assert [row["id"] for row in json.loads(Path("t.json").read_text())] == ["0", "1"]
    assert said(capsys, "export", "--csv", "t.csv") == "t.csv\n"
    assert Path("t.csv").read_text() == said(capsys, "export")


def test_other_sweeps_that_are_driven_here_are_named(home):
    from orchestrator.engine.start import neighbours
    from orchestrator.ledger.driver_lock import DriverLock

    simulation.run(home, toy.sweep(name="other", run_cap=1))
    assert neighbours(home.sweep("toy")) == []
    lock = DriverLock(home.sweep("other").lock)
    assert (neighbours(home.sweep("toy")), neighbours(home.sweep("other"))) == (["other"], [])
    lock.release()


def test_a_wait_for_mlflow_is_said_and_one_that_has_given_up_is_no_wait(capsys, monkeypatch):
    now, waited = [0.0], []
    monkeypatch.setattr("orchestrator.api.driving.time.monotonic", lambda: now[0])

    def close(seconds, takes=60.0):
        waited.append(seconds)
        now[0] += min(seconds, takes)
        return 7

    finish_sending(close, "toy")
    assert (waited, "at most 30 s" in capsys.readouterr().err) == ([2.0, 28.0], True)
    finish_sending(lambda seconds: close(seconds, takes=0.1), "toy")
    assert capsys.readouterr().err == "7 events queued for MLflow; `meansweep sync toy` sends them\n"
    assert waited == [2.0, 28.0, 2.0]


def test_ctrl_c_while_mlflow_gets_the_last_events_does_not_wait_for_them(capsys):
    waited = []

    def close(seconds):
        waited.append(seconds)
        if seconds:
            raise KeyboardInterrupt
        return 7

    finish_sending(close, "toy")
    assert waited == [2.0, 0.0]
    assert capsys.readouterr().err.startswith("7 events queued for MLflow")


@pytest.mark.parametrize("words", [["status"], ["train"], ["edit"], ["trial"], ["trial", "stop"]])
def test_the_help_of_what_runs_on_a_cluster_too_says_how(capsys, words):
    assert "--address http://" in said(capsys, *words, "--help")


@pytest.mark.parametrize("words", [words for words in EXAMPLES if words != "ui"])
def test_every_help_ends_with_examples_that_parse(capsys, words):
    text = said(capsys, *words.split(), "--help")
    examples = re.findall(r"^ *meansweep (.*)$", text, re.MULTILINE)
    assert examples == list(EXAMPLES[words])
    for line in examples:
        *_, given = remote_address(line.split())
        with parser().make_context("meansweep", list(given)) as context:
            _, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            if not hasattr(command, "resolve_command"):
                command.make_context(words, rest, parent=context).close()


def test_every_command_has_an_example():
    group = parser()
    names = {name for name, command in group.commands.items() if not hasattr(command, "commands")}
    names |= {f"trial {name}" for name in group.commands["trial"].commands}
    assert names <= set(EXAMPLES)


def test_a_log_is_found_by_sweep_and_trial_too(home, capsys):
    log = home.sweep("toy").trial("1").log
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("of the trial\n")
    assert said(capsys, "logs", "toy", "1") == "of the trial\n"


def test_the_version_is_said(capsys):
    assert re.fullmatch(r"meansweep \d+\.\d+\.\d+\S*\n", said(capsys, "--version"))


@pytest.mark.parametrize("command", ["status", "leaderboard", "best", "list", "compare"])
def test_short_answers_import_neither_optuna_nor_scipy_nor_torch_nor_ray(home, command):
    words = [command, *(["0", "1"] if command == "compare" else [])]
    code = (
        "import sys; from orchestrator.cli.main import run; "
        f"assert run({words!r}) == 0; print(sorted({{'optuna', 'scipy', 'torch', 'ray', 'mlflow'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_bash_completes_commands_options_and_the_sweeps_of_the_home(tmp_path):
    (tmp_path / "home/sweeps/digits-a").mkdir(parents=True)
    (tmp_path / "home/sweeps/moons").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path), "MEANSWEEP_HOME": str(tmp_path / "home"), "SHELL": "/bin/bash"}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    (tmp_path / "meansweep").write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator.cli "$@"\n')
    (tmp_path / "meansweep").chmod(0o755)
    ask = "COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _meansweep_completion meansweep"
    script = (
        "meansweep --install-completion >/dev/null; . ~/.bashrc; ask() { " + ask + "; echo ${COMPREPLY[*]}; }; "
        "ask 'meansweep leader'; ask 'meansweep leaderboard dig'; ask 'meansweep run --inl'; "
        "for words in try extend logs 'trial stop' 'trial stop 7' 'compare moons' sync report; do "
        'ask "meansweep $words dig"; done'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["leaderboard", "digits-a", "--inline", *["digits-a"] * 8], done.stderr
