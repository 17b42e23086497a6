"""A sweep loses a node, MLflow and its driver, is stopped, and ends complete; a trial loses one of its two workers."""

from __future__ import annotations

import json
import subprocess
import time
from typing import NamedTuple

from orchestrator.ledger.driver_lock import driver_of
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home
from orchestrator.tracking.mlflow_store import Sent, Store, connect
from orchestrator.trials.trial import TrialState
from scripts.cluster_demo.claims import claim, meanwhile, say, wait_for
from scripts.cluster_demo.laptop import METRIC, PAIR, SWEEP
from scripts.cluster_demo.stage import Stage
from tests.cluster.local_cluster import kill


class Lost(NamedTuple):
    """A trial whose node was lost, and the step that it had reached."""

    trial: str
    step: int


def look_at_the_cluster(stage: Stage) -> None:
    """Ask the doctor, and try to get in without the token, and with another."""
    home = stage.cluster.home

    def try_other_tokens() -> None:
        missing = stage.laptop.types(f"submit sweep.yaml --remote-home {home}", code=1, token=None)
        claim("a missing token is explained", "~/.ray/auth_token" in missing.stderr)
        wrong = stage.laptop.types(f"submit sweep.yaml --remote-home {home}", code=1, token="0" * 32)
        claim("a wrong token is told from a missing one", "refuses this token" in wrong.stderr)

    with meanwhile(try_other_tokens):
        checks = stage.laptop.types(f"doctor --remote-home {home}").stdout
        claim("the doctor finds nothing wrong on three nodes", "3 node(s)" in checks)


def submit(stage: Stage) -> subprocess.Popen[bytes]:
    """Send the sweep, and return the process that follows its driver's output."""
    home = stage.cluster.home
    sent = stage.laptop.types(f"submit sweep.yaml --remote-home {home}")
    claim("submit returns the sweep's name", sent.stdout.splitlines()[-1] == SWEEP, sent.stdout.strip())
    claim("it does not wait for the sweep", not any(trial.state.ended for trial in stage.trials()))
    again = stage.laptop.types(f"submit sweep.yaml --remote-home {home}", code=2)
    claim("a sweep that runs there is not sent twice", "runs on" in again.stderr)
    follower = stage.laptop.begins(f"logs {SWEEP} -f", stage.laptop.folder / "followed.txt")
    stage.stack.callback(lambda: kill([follower.pid]) if follower.poll() is None else None)
    return follower


def lose_a_node(stage: Stage) -> Lost:
    """Kill a node in mid-trial."""
    wait_for("two trials at once, each with a checkpoint", lambda: stage.at_work(2))
    say("the first node is killed in mid-trial, and a new one joins")
    stage.lose(0)
    lost = wait_for("the loss of the node to be noticed", lambda: [t for t in stage.trials() if t.attempts])
    found = [(trial.id, failure.kind, failure.step) for trial in lost for failure in trial.attempts]
    claim("one trial was lost with it, and no retry is charged", [kind for _, kind, _ in found] == ["lost"], found)
    trial, _, step = found[0]
    return Lost(trial, step)


def lose_mlflow_and_the_driver(stage: Stage, follower: subprocess.Popen[bytes]) -> None:
    """Stop MLflow's server, kill the driver, and resume while MLflow comes back."""
    say("MLflow's server goes away")
    gone_at = time.monotonic()
    stage.mlflow.close()
    before = sum(len(trial.reports) for trial in stage.trials())
    wait_for("reports without MLflow", lambda: sum(len(t.reports) for t in stage.trials()) > before)
    claim("training goes on without MLflow", True)
    say("the driver is killed")
    kill([stage.driver()])
    wait_for("the driver's end", lambda: driver_of(stage.sweep.lock) is None)
    status = json.loads(stage.laptop.types(f"status {SWEEP} --json").stdout)
    claim("status knows that the sweep was interrupted", status["state"] == "interrupted", status["trials"])
    claim("it was not over yet", status["trials"]["finished"] < stage.size.trials)
    claim("its last driver's output was followed to its end", follower.wait(60) is not None)
    time.sleep(max(0.0, stage.size.outage - (time.monotonic() - gone_at)))
    say(f"MLflow comes back after {time.monotonic() - gone_at:.0f} s")
    with meanwhile(stage.start_mlflow_again):
        resumed = stage.laptop.types(f"resume {SWEEP}")
        claim("resume returns at once", "resumed" in resumed.stdout)


def go_on_to_the_end(stage: Stage, lost: Lost) -> None:
    """Stop the sweep that was resumed, resume it once more, and follow it to its end."""
    wait_for("a driver", lambda: driver_of(stage.sweep.lock))
    stage.laptop.types(f"stop {SWEEP}")
    wait_for("the sweep to stop", lambda: Ledger.open(stage.sweep).state().state in ("stopped", "finished"))
    followed = stage.laptop.types(f"resume {SWEEP} --follow")
    claim("the followed driver says how the sweep ended", f"{SWEEP}: finished" in followed.stdout)
    trials = stage.trials()
    states = [
        f"{trial.id} {trial.state.value}{f' ({trial.failure.reason})' if trial.failure else ''}" for trial in trials
    ]
    whole = len(trials) == stage.size.trials and all(t.state is TrialState.FINISHED for t in trials)
    claim("the sweep ends complete", whole and not any(trial.failure for trial in trials), ", ".join(states))
    kinds = [failure.kind for trial in trials for failure in trial.attempts]
    claim("nothing but the node cost an attempt", kinds == ["lost"], kinds)
    log = stage.sweep.trial(lost.trial).log.read_text()
    claim("the lost trial went on from its last checkpoint", f"from step {lost.step}\n" in log, lost.step)


def compare_with_mlflow(stage: Stage) -> None:
    """Compare what MLflow holds with the ledger: by the outbox, and once more without it."""
    proof = stage.laptop.types(f"sync {SWEEP} --check")
    claim("sync --check proves every metric to be in MLflow once", "each exactly once" in proof.stdout)
    client, runs = connect(stage.store), Sent.load(stage.sweep.outbox, Store(stage.url)).runs
    points = 0
    for trial in stage.trials():  # the same, without the outbox: ledger against server
        history = client.get_metric_history(runs[trial.id], METRIC)
        held = sorted((metric.step, metric.value) for metric in history)
        known = sorted((step, report[METRIC]) for step, report in trial.reports.items())
        claim(f"MLflow holds what the ledger says of trial {trial.id}", held == known, f"{len(held)} points")
        points += len(held)
    claim("and that is every report", points == 4 * stage.size.trials, points)


def lose_a_node_of_a_pair(stage: Stage) -> None:
    """Kill the node of one of the two workers of a trial."""
    stage.laptop.types(f"submit pair.yaml --remote-home {stage.cluster.home}")
    pair = Home(stage.cluster.home).sweep(PAIR)
    found = wait_for("a trial with two workers", stage.pair_by_node)
    claim(
        "its two workers are on the two nodes, neither of which has room for both",
        sorted(found) == [(0, 1), (1, 0)],
        found,
    )
    wait_for("its first report", lambda: any(trial.reports for trial in stage.trials(pair)))
    say("the node of the one that does not lead is killed, and a new one joins")
    stage.lose(found.index((0, 1)))
    (trial,) = wait_for("the end of the trial", lambda: [t for t in stage.trials(pair) if t.state.ended])
    kinds = [failure.kind for failure in trial.attempts]
    claim(
        "the trial ends well, and no retry is charged", (trial.state, kinds) == (TrialState.FINISHED, ["lost"]), kinds
    )
    step = trial.attempts[0].step
    claim("it went on from its last checkpoint", f"from step {step}\n" in pair.trial(trial.id).log.read_text(), step)
