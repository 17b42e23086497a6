"""A sweep on a cluster in which everything goes wrong once, and the model that comes of it.

    python scripts/cluster_demo.py [--short | --bucket] [--picture cluster-demo.png]

On this machine it starts a Ray cluster of three nodes with a token (the head has no CPUs) and an MLflow server with a
password, and sweeps over real digits from a folder that knows neither. A node is killed in mid-trial, MLflow goes
away, the driver is killed, the sweep is stopped; it is resumed twice and must end complete, with every metric in
MLflow once. A trial with two workers loses the node of one. The winner is trained on two workers, one of which is
killed; it is registered, loaded back and sampled. The long form has MLflow on PostgreSQL where that is installed, and
ends with two homes on one bucket that goes away, the removal of a sweep of one of them, and a search of all files for
passwords and keys (`--bucket`: that alone). Each claim is checked and printed with what was found; exit code 1 with the
first that does not hold. All that it starts ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from meanflow_core.config.yaml_file import read_yaml, write_yaml  # noqa: E402
from orchestrator.ledger.driver_lock import driver_of  # noqa: E402
from orchestrator.ledger.errors import LedgerError  # noqa: E402
from orchestrator.ledger.ledger import Ledger  # noqa: E402
from orchestrator.paths import Home, SweepPaths  # noqa: E402
from orchestrator.tracking.mlflow_store import Sent, Store, connect  # noqa: E402
from orchestrator.tracking.mlflow_sync import check  # noqa: E402
from orchestrator.trials.trial import TrialRecord, TrialState  # noqa: E402
from tests.cluster.local_cluster import MARK, TOKEN, LocalCluster, command_of, descendants, kill  # noqa: E402
from tests.orchestrator.mlflow_stores import PASSWORD, USER, password_server  # noqa: E402
from tests.orchestrator.s3 import Bucket  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from cluster_demo_team import STORE_SECRET, files_with, postgres, postgres_missing, store_credentials  # noqa: E402

SWEEP, PAIR, SHARED, METRIC = "digits-cluster", "digits-pair", "shared", "eval/fid_1nfe"


@dataclass(frozen=True)
class Size:
    """How much is done."""

    trials: int
    steps: int
    """Of a trial."""
    final_steps: int
    width: int
    samples: int
    outage: float
    """Seconds without MLflow, at least."""


SHORT = Size(trials=4, steps=400, final_steps=600, width=48, samples=200, outage=2)
LONG = Size(trials=6, steps=600, final_steps=3000, width=128, samples=1000, outage=60)


class ClaimFailed(Exception):
    """Something that this project claims does not hold."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def claim(what: str, holds: object, found: object = "") -> None:
    """Print what was found, or end with it."""
    if not holds:
        raise ClaimFailed(f"{what}; found: {found}")
    say(f"   ok: {what}{f' ({found})' if found != '' else ''}")


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 600) -> Any:
    """Return what a condition returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise ClaimFailed(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.2)
    return found


class Laptop:
    """A folder elsewhere, from which commands are typed; it has the cluster's token, no more."""

    def __init__(self, folder: Path, cluster: LocalCluster, mlflow: str) -> None:
        self.folder, self.address, self.log = folder, cluster.address, folder / "log.txt"
        self.environment = {
            **{
                key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MEANSWEEP_", "MLFLOW_"))
            },
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "RAY_AUTH_TOKEN": TOKEN,
            "MLFLOW_TRACKING_URI": mlflow,
        }

    def types(self, command: str, *, there: bool = True, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Type `meansweep COMMAND` (`there`: with the cluster's address) and expect an exit code."""
        say(f"$ meansweep {command}" + (" --address http://..." if there else ""))
        began = time.monotonic()
        done = subprocess.run(
            self._words(command, there), cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=600,
        )  # fmt: skip
        output = (done.stdout + done.stderr).rstrip()
        print("\n".join(f"          | {line[:150]}" for line in output.splitlines()[-14:]), flush=True)
        if done.returncode != code:
            raise ClaimFailed(f"`meansweep {command}` ends with {code}; found: {done.returncode}\n{output}")
        say(f"   {time.monotonic() - began:.1f} s")
        return done

    def begins(self, command: str, output: Path) -> subprocess.Popen[bytes]:
        """Type a command that goes on by itself, its output going to a file."""
        say(f"$ meansweep {command} --address http://... &")
        with output.open("wb") as stream:
            return subprocess.Popen(
                self._words(command, True), cwd=self.folder, env=self.environment, stdout=stream, stderr=stream
            )

    def python(self, program: str) -> str:
        """Run a program of a few lines and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if done.returncode:
            raise ClaimFailed(f"a program on the laptop ends well; found: {done.stderr}")
        return done.stdout

    def _words(self, command: str, there: bool) -> list[str]:
        address = ["--address", self.address] if there else []
        return [sys.executable, "-m", "orchestrator.cli", *command.split(), *address]


def write_sweeps(folder: Path, size: Size) -> None:
    """Write the sweep's file, that of a single trial with two workers, and their base configuration."""
    base = {
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": size.width, "depth": 3},
        "objective": {"time": {"law": "lognorm", "mean": -0.4, "ratio": 0.25}, "guidance": {"scale": 1.5}},
        "optimizer": {"lr": 3.0e-3, "beta2": 0.999, "warmup_steps": 50, "clip_norm": 1.0},
        "ema": {"decays": [0.99 if size is SHORT else 0.999]},
        "trainer": {
            "steps": size.final_steps, "batch_size": 128, "log_every": 50, "eval_every": size.final_steps // 4,
            "checkpoint_every": size.final_steps // 12,
        },
        "evaluation": {"samples": size.samples, "nfe": [1]},
    }  # fmt: skip
    sweep = {
        "name": SWEEP,
        "base": "base.yaml",
        "set": {"trainer.steps": size.steps, "trainer.eval_every": size.steps // 4},
        "method": "random",
        "metric": {"name": METRIC, "goal": "minimize"},
        "run_cap": size.trials,
        "parameters": {
            "objective.guidance.scale": {"min": 1.0, "max": 2.5},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1.0e-3, "max": 4.0e-3},
        },
        "resources": {"cpu": 1},
        "retries": 0,
    }
    pair = {**sweep, "name": PAIR, "run_cap": 1, "resources": {"cpu": 1, "workers": 2}}
    pair["set"] = {"trainer.steps": 2 * size.steps, "trainer.eval_every": size.steps // 4}
    shared = {**sweep, "name": SHARED, "run_cap": 2}
    for name, content in (("base", base), ("sweep", sweep), ("pair", pair), ("shared", shared)):
        (folder / f"{name}.yaml").write_text(write_yaml(content))


class Demo:
    """The scenario, in the order in which it happens."""

    def __init__(self, scratch: Path, size: Size, stack: ExitStack) -> None:
        self.size, self.stack, self.scratch = size, stack, scratch
        self.cluster = LocalCluster(scratch)
        self.sweep: SweepPaths = Home(self.cluster.home).sweep(SWEEP)
        self.mlflow_folder = scratch / "mlflow"
        self.laptop_folder = scratch / "laptop"
        self.laptop_folder.mkdir()

    def run(self, picture: Path) -> None:
        """Play it.

        Raises:
            ClaimFailed: a claim does not hold.
        """
        self.start()
        self.submit()
        self.lose_a_node()
        self.lose_mlflow_and_the_driver()
        self.go_on_to_the_end()
        self.compare_with_mlflow()
        self.lose_a_node_of_a_pair()
        self.train_the_winner()
        self.use_the_model(picture)
        if self.size is not SHORT:
            self.share_a_bucket()
            self.search_for_secrets()

    # ------------------------------------------------------------------------------------------ the parts

    def start(self) -> None:
        say("a Ray cluster of a head without CPUs and two nodes, and an MLflow server")
        self.stack.callback(self.cluster.close)
        self.cluster.start_head()
        self.backend = ""
        if self.size is not SHORT:
            missing = postgres_missing()
            self.backend = self.stack.enter_context(postgres()) if missing is None else ""
            say(f"MLflow keeps its runs in {'SQLite: ' + missing if missing else 'PostgreSQL'}")
        self.mlflow = self.stack.enter_context(ExitStack())
        self.url = self.mlflow.enter_context(password_server(self.mlflow_folder, mark=MARK, backend=self.backend))
        self.nodes = [self.cluster.add_node(), self.cluster.add_node()]
        self.laptop = Laptop(self.laptop_folder, self.cluster, self.url)
        self.store = Store(self.url.replace("http://", f"http://{USER}:{PASSWORD.replace(' ', '%20')}@"))
        write_sweeps(self.laptop_folder, self.size)
        home = self.cluster.home
        home.mkdir(parents=True, exist_ok=True)
        secret = home / "credentials"
        secret.touch(mode=0o600)
        self.credentials = f"MLFLOW_TRACKING_USERNAME={USER}\nMLFLOW_TRACKING_PASSWORD={PASSWORD.replace('%40', '@')}\n"
        secret.write_text(self.credentials)
        checks = self.laptop.types(f"doctor --remote-home {home}").stdout
        claim("the doctor finds nothing wrong on three nodes", "3 node(s)" in checks)

    def submit(self) -> None:
        home = self.cluster.home
        del self.laptop.environment["RAY_AUTH_TOKEN"]
        missing = self.laptop.types(f"submit sweep.yaml --remote-home {home}", code=1)
        claim("a missing token is explained", "~/.ray/auth_token" in missing.stderr)
        self.laptop.environment["RAY_AUTH_TOKEN"] = "0" * 32
        wrong = self.laptop.types(f"submit sweep.yaml --remote-home {home}", code=1)
        claim("a wrong token is told from a missing one", "refuses this token" in wrong.stderr)
        self.laptop.environment["RAY_AUTH_TOKEN"] = TOKEN
        sent = self.laptop.types(f"submit sweep.yaml --remote-home {home}")
        claim("submit returns the sweep's name", sent.stdout.splitlines()[-1] == SWEEP, sent.stdout.strip())
        claim("it does not wait for the sweep", not any(trial.state.ended for trial in self.trials()))
        again = self.laptop.types(f"submit sweep.yaml --remote-home {home}", code=2)
        claim("a sweep that runs there is not sent twice", "runs on" in again.stderr)
        self.followed = self.laptop_folder / "followed.txt"
        self.follower = self.laptop.begins(f"logs {SWEEP} -f", self.followed)
        self.stack.callback(lambda: kill([self.follower.pid]) if self.follower.poll() is None else None)

    def lose_a_node(self) -> None:
        wait_for("two trials at once, each with a checkpoint", lambda: self.at_work(2))
        node = self.nodes[0]
        say("the first node is killed in mid-trial, and a new one joins")
        self.cluster.kill(node)
        self.nodes = [self.nodes[1], self.cluster.add_node()]
        lost = wait_for("the loss of the node to be noticed", lambda: [t for t in self.trials() if t.attempts])
        found = [(trial.id, failure.kind, failure.step) for trial in lost for failure in trial.attempts]
        claim("one trial was lost with it, and no retry is charged", [kind for _, kind, _ in found] == ["lost"], found)
        self.lost, _, self.lost_at = found[0]

    def lose_mlflow_and_the_driver(self) -> None:
        say("MLflow's server goes away")
        gone_at = time.monotonic()
        self.mlflow.close()
        before = sum(len(trial.reports) for trial in self.trials())
        wait_for("reports without MLflow", lambda: sum(len(t.reports) for t in self.trials()) > before)
        claim("training goes on without MLflow", True)
        say("the driver is killed")
        kill([self.driver()])
        wait_for("the driver's end", lambda: driver_of(self.sweep.lock) is None)
        status = json.loads(self.laptop.types(f"status {SWEEP} --json").stdout)
        claim("status knows that the sweep was interrupted", status["state"] == "interrupted", status["trials"])
        claim("it was not over yet", status["trials"]["finished"] < self.size.trials)
        claim("its last driver's output was followed to its end", self.follower.wait(60) is not None)
        time.sleep(max(0.0, self.size.outage - (time.monotonic() - gone_at)))
        say(f"MLflow comes back after {time.monotonic() - gone_at:.0f} s")
        port = int(self.url.rpartition(":")[2])
        self.mlflow.enter_context(password_server(self.mlflow_folder, port, mark=MARK, backend=self.backend))

    def go_on_to_the_end(self) -> None:
        resumed = self.laptop.types(f"resume {SWEEP}")
        claim("resume returns at once", "resumed" in resumed.stdout)
        wait_for("a driver", lambda: driver_of(self.sweep.lock))
        self.laptop.types(f"stop {SWEEP}")
        wait_for("the sweep to stop", lambda: Ledger.open(self.sweep).state().state in ("stopped", "finished"))
        followed = self.laptop.types(f"resume {SWEEP} --follow")
        claim("the followed driver says how the sweep ended", f"{SWEEP}: finished" in followed.stdout)
        trials = self.trials()
        states = [f"{trial.id} {trial.state.value}" for trial in trials]
        whole = len(trials) == self.size.trials and all(t.state is TrialState.FINISHED for t in trials)
        claim("the sweep ends complete", whole and not any(trial.failure for trial in trials), ", ".join(states))
        kinds = [failure.kind for trial in trials for failure in trial.attempts]
        claim("nothing but the node cost an attempt", kinds == ["lost"], kinds)
        log = self.sweep.trial(self.lost).log.read_text()
        claim("the lost trial went on from its last checkpoint", f"from step {self.lost_at}\n" in log, self.lost_at)

    def compare_with_mlflow(self) -> None:
        proof = self.laptop.types(f"sync {SWEEP} --check")
        claim("sync --check proves every metric to be in MLflow once", "each exactly once" in proof.stdout)
        client, runs = connect(self.store), Sent.load(self.sweep.outbox, Store(self.url)).runs
        points = 0
        for trial in self.trials():  # the same, without the outbox: ledger against server
            history = client.get_metric_history(runs[trial.id], METRIC)
            held = sorted((metric.step, metric.value) for metric in history)
            known = sorted((step, report[METRIC]) for step, report in trial.reports.items())
            claim(f"MLflow holds what the ledger says of trial {trial.id}", held == known, f"{len(held)} points")
            points += len(held)
        claim("and that is every report", points == 4 * self.size.trials, points)

    def lose_a_node_of_a_pair(self) -> None:
        self.laptop.types(f"submit pair.yaml --remote-home {self.cluster.home}")
        pair = Home(self.cluster.home).sweep(PAIR)
        found = wait_for("a trial with two workers", self.pair_by_node)
        claim(
            "its two workers are on the two nodes, neither of which has room for both",
            sorted(found) == [(0, 1), (1, 0)],
            found,
        )
        wait_for("its first report", lambda: any(trial.reports for trial in self.trials(pair)))
        say("the node of the one that does not lead is killed, and a new one joins")
        lost = found.index((0, 1))
        self.cluster.kill(self.nodes[lost])
        self.nodes[lost] = self.cluster.add_node()
        (trial,) = wait_for("the end of the trial", lambda: [t for t in self.trials(pair) if t.state.ended])
        kinds = [failure.kind for failure in trial.attempts]
        claim(
            "the trial ends well, and no retry is charged",
            (trial.state, kinds) == (TrialState.FINISHED, ["lost"]),
            kinds,
        )
        text = pair.trial(trial.id).log.read_text()
        claim(
            "it went on from its last checkpoint",
            f"from step {trial.attempts[0].step}\n" in text,
            trial.attempts[0].step,
        )

    def train_the_winner(self) -> None:
        self.laptop.types(f"best {SWEEP} -o best.yaml")
        evidence = read_yaml(self.laptop_folder / "best.yaml").content["evidence"]
        self.name = f"{SWEEP}-{evidence['trial']}"
        output = self.laptop_folder / "train.txt"
        training = self.laptop.begins("train best.yaml --workers 2", output)
        self.stack.callback(lambda: kill([training.pid]) if training.poll() is None else None)
        checkpoints = Home(self.cluster.home).final(self.name) / "checkpoints"
        wait_for(
            "a checkpoint of the final training",
            lambda: training.poll() is not None or list(checkpoints.glob("step-*")),
        )
        ranks = [[pid for pid in descendants(node.pid) if "RayTrainWorker" in command_of(pid)] for node in self.nodes]
        claim("the winner trains on two workers, on two nodes", [len(pids) for pids in ranks] == [1, 1], ranks)
        reached = max(path.name for path in checkpoints.glob("step-*"))
        say(f"one of the two workers is killed at {reached}")
        kill(ranks[1])
        code = wait_for("the end of the training", lambda: training.poll() is not None and [training.returncode])
        print("\n".join(f"          | {line[:150]}" for line in output.read_text().splitlines()[-12:]), flush=True)
        text = output.read_text()
        claim(
            "the training goes on by itself to its end", code == [0] and f"{self.size.final_steps} steps" in text, code
        )
        said = re.search(r"^trial +(.*)$", text, re.M)
        claim("it says that it reproduced its trial", said and said[1].startswith("reproduced"), said and said[1])
        claim("its model is registered", f"models:/{self.name}/1" in text)
        proof = check(Home(self.cluster.home).final(self.name) / "outbox", self.store)
        claim("its metrics are in MLflow once, too", proof.complete, proof)

    def use_the_model(self, picture: Path) -> None:
        # The laptop's own user logs in to MLflow as with any other of its programs; until here only the cluster did.
        self.laptop.environment |= dict(line.split("=", 1) for line in self.credentials.splitlines())
        found = json.loads(self.laptop.python(LOAD_BACK.format(model=f"models:/{self.name}/1")))
        claim("MLflow loads the model and samples in one step", found["shape"] == [10, 8, 8, 3], found)
        claim("other labels give other pictures", found["differ"])
        self.laptop.types(f"sample models:/{self.name}/1 -n 100 --nfe 1,2 -o samples.png", there=False)
        shutil.copy(self.laptop_folder / "samples.png", picture)
        claim("meansweep sample draws them", picture.stat().st_size > 1000, picture)

    def share_a_bucket(self) -> None:
        bucket = Bucket()
        self.stack.callback(lambda: bucket.stop())
        bucket.client().create_bucket(Bucket="team")
        homes = [Home(self.scratch / f"home-{name}") for name in ("a", "b")]
        for home in homes:
            home.root.mkdir()
            home.credentials.touch(mode=0o600)
            home.credentials.write_text(self.credentials + store_credentials(bucket.endpoint))
        first, second = (home.sweep(SHARED) for home in homes)
        self.laptop.environment["MEANSWEEP_STORAGE"] = bucket.url
        self.laptop.types(f"submit shared.yaml --remote-home {homes[0].root}")
        wait_for("a checkpoint in the bucket", bucket.names)
        say(f"the bucket goes away for {self.size.outage:.0f} s")
        bucket.stop()
        time.sleep(self.size.outage)
        bucket.start()
        self.ended(first)
        before = self.objects(bucket)
        self.laptop.types(f"submit shared.yaml --remote-home {homes[1].root}")
        self.ended(second)
        ids = [Ledger.open(sweep).id for sweep in (first, second)]
        claim("two sweeps of one name have ids of their own", ids[0] != ids[1], ids)
        after = self.objects(bucket)
        claim("the second has not touched what the first keeps", before.items() <= after.items(), len(before))
        claim("each object is of one of the two", all(any(f"-{i}/" in name for i in ids) for name in after), len(after))
        for home in homes:  # a server on a busy machine may be behind
            self.laptop.types(f"sync {SHARED} --remote-home {home.root}")
        self.laptop.types(f"remove {SHARED} --yes --remote-home {homes[0].root}")
        left = {name: mark for name, mark in after.items() if f"-{ids[1]}/" in name}
        claim("removing the first leaves the second's checkpoints", left and self.objects(bucket) == left, len(left))
        claim("and its record", not first.root.exists() and len(self.trials(second)) == 2)
        client = connect(self.store)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments() if e.name == SHARED])
        found = {run.data.tags.get("meansweep.sweep_id") for run in runs}
        claim("and its runs in MLflow", found == {ids[1]} and len(runs) == 3, len(runs))
        self.laptop.types(f"sync {SHARED} --check --remote-home {homes[1].root}")

    def ended(self, sweep: SweepPaths) -> None:
        over = ("finished", "failed", "stopped", "interrupted")
        state = wait_for("the end of the sweep", lambda: self.state_among(sweep, over))
        trials = self.trials(sweep)
        claim("the sweep ends well", state == "finished" and all(t.state is TrialState.FINISHED for t in trials), state)
        attempts = [failure.reason for trial in trials for failure in trial.attempts]
        claim("and without a failure", not attempts, attempts or "")

    def state_among(self, sweep: SweepPaths, states: tuple[str, ...]) -> str:
        """A sweep's state, if it is one of these and no driver is there."""
        try:
            state = Ledger.open(sweep).state().state
        except LedgerError:
            return ""
        return state if state in states and driver_of(sweep.lock) is None else ""

    def objects(self, bucket: Bucket) -> dict[str, str]:
        """What is in the bucket, with its check sums."""
        page = bucket.client().list_objects_v2(Bucket="team")
        return {entry["Key"]: entry["ETag"] for entry in page.get("Contents", [])}

    def search_for_secrets(self) -> None:
        plain = PASSWORD.replace("%40", "@")
        markers = {"MLflow's password": plain, "the same, quoted": PASSWORD.replace(" ", "%20"), "a key": STORE_SECRET}
        folders = [path for path in self.scratch.iterdir() if path.is_dir() and path != self.mlflow_folder]
        found = files_with(markers, folders)
        number = sum(1 for folder in folders for file in folder.rglob("*") if file.is_file())
        claim("no file holds a password or a key but each home's credentials", not found, found or f"{number} files")

    # ------------------------------------------------------------------------------------------ what is there

    def trials(self, sweep: SweepPaths | None = None) -> list[TrialRecord]:
        try:
            return Ledger.open(sweep or self.sweep).trials()
        except LedgerError:  # not there yet
            return []

    def pair_by_node(self) -> list[tuple[int, ...]]:
        """How many leading and other processes of a trial each node has; nothing before there is one of each."""
        found = []
        for node in self.nodes:
            names = [command_of(pid) for pid in descendants(node.pid)]
            found.append(tuple(sum(name in each for each in names) for name in ("ray::TrialWorker", "ray::Rank")))
        return found if [sum(column) for column in zip(*found, strict=True)] == [1, 1] else []

    def at_work(self, count: int) -> bool:
        running = [t for t in self.trials() if t.state is TrialState.RUNNING and 0 < t.steps < self.size.steps]
        return len(running) >= count

    def driver(self) -> int:
        found = driver_of(self.sweep.lock)
        if found is None or found[0] is None:
            raise ClaimFailed("a driver is at work; found: none")
        return found[0]


LOAD_BACK = """
import json, mlflow, numpy, pandas
model = mlflow.pyfunc.load_model("{model}")
pictures = model.predict(pandas.DataFrame(dict(label=range(10), seed=0)))
others = model.predict(pandas.DataFrame(dict(label=[3] * 10, seed=0)))
print(json.dumps(dict(shape=pictures.shape, differ=bool((pictures != others).any()))))
"""


@contextlib.contextmanager
def terminated_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that everything that was started ends."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="small networks, few steps, an outage of seconds")
    parser.add_argument("--bucket", action="store_true", help="the bucket, the two homes and the secrets alone")
    parser.add_argument("--picture", type=Path, default=Path("cluster-demo.png"), help="where the samples go")
    options = parser.parse_args()
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="rc-"))  # Ray's sockets need a short path
    with terminated_as_exit(), ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        try:
            size = SHORT if options.short else LONG
            if options.bucket:
                size = dataclasses.replace(LONG, steps=400, final_steps=600, width=48, samples=200, outage=45)
            demo = Demo(scratch, size, stack)
            if options.bucket:
                demo.start()
                demo.share_a_bucket()
                demo.search_for_secrets()
            else:
                demo.run(options.picture.absolute())
        except ClaimFailed as failure:
            print(f"\nFAILED: {failure}", file=sys.stderr)
            return 1
    say(f"every claim held, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
