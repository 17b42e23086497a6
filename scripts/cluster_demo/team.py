"""Two homes with sweeps of one name on one bucket, which goes away; one of them is removed; no file holds a secret."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path

from orchestrator.ledger.driver_lock import driver_of
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.ledger import Ledger
from orchestrator.paths import Home, SweepPaths
from orchestrator.tracking.mlflow_store import connect
from orchestrator.trials.trial import TrialState
from scripts.cluster_demo.claims import claim, say, wait_for
from scripts.cluster_demo.laptop import SHARED
from scripts.cluster_demo.stage import CREDENTIALS, Stage, write_credentials
from tests.orchestrator.mlflow_stores import PASSWORD
from tests.orchestrator.s3 import Bucket

STORE_SECRET = f"key-{uuid.uuid4().hex}"
OVER = ("finished", "failed", "stopped", "interrupted")


def share_a_bucket(stage: Stage) -> None:
    """Run two sweeps of one name from two homes on one bucket, and remove the first."""
    bucket = Bucket()
    stage.stack.callback(lambda: bucket.stop())
    bucket.client().create_bucket(Bucket="team")
    homes = [Home(stage.scratch / f"home-{name}") for name in ("a", "b")]
    for home in homes:
        write_credentials(home, CREDENTIALS + store_credentials(bucket.endpoint))
    first, second = (home.sweep(SHARED) for home in homes)
    stage.laptop.environment["MEANSWEEP_STORAGE"] = bucket.url
    stage.laptop.types(f"submit shared.yaml --remote-home {homes[0].root}")
    # Not the small file that a driver writes there first, to see whether it can.
    wait_for("a checkpoint in the bucket", lambda: [name for name in bucket.names() if "/step-" in name])
    say(f"the bucket goes away for {stage.size.outage:.0f} s")
    bucket.stop()
    time.sleep(stage.size.outage)
    bucket.start()
    ended(stage, first)
    before = objects(bucket)
    stage.laptop.types(f"submit shared.yaml --remote-home {homes[1].root}")
    ended(stage, second)
    ids = [Ledger.open(sweep).id for sweep in (first, second)]
    claim("two sweeps of one name have ids of their own", ids[0] != ids[1], ids)
    after = objects(bucket)
    claim("the second has not touched what the first keeps", before.items() <= after.items(), len(before))
    claim("each object is of one of the two", all(any(f"-{i}/" in name for i in ids) for name in after), len(after))
    for home in homes:  # a server on a busy machine may be behind
        stage.laptop.types(f"sync {SHARED} --remote-home {home.root}")
    stage.laptop.types(f"remove {SHARED} --yes --remote-home {homes[0].root}")
    left = {name: mark for name, mark in after.items() if f"-{ids[1]}/" in name}
    claim("removing the first leaves the second's checkpoints", left and objects(bucket) == left, len(left))
    claim("and its record", not first.root.exists() and len(stage.trials(second)) == 2)
    client = connect(stage.store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments() if e.name == SHARED])
    found = {run.data.tags.get("meansweep.sweep_id") for run in runs}
    claim("and its runs in MLflow", found == {ids[1]} and len(runs) == 3, (len(runs), found))
    stage.laptop.types(f"sync {SHARED} --check --remote-home {homes[1].root}")


def ended(stage: Stage, sweep: SweepPaths) -> None:
    """Wait for the end of a sweep, which must be a good one."""
    state = wait_for("the end of the sweep", lambda: state_among(sweep, OVER))
    trials = stage.trials(sweep)
    claim("the sweep ends well", state == "finished" and all(t.state is TrialState.FINISHED for t in trials), state)
    attempts = [failure.reason for trial in trials for failure in trial.attempts]
    claim("and without a failure", not attempts, attempts or "")


def state_among(sweep: SweepPaths, states: tuple[str, ...]) -> str:
    """Return a sweep's state, if it is one of these and no driver is there."""
    try:
        state = Ledger.open(sweep).state().state
    except LedgerError:
        return ""
    return state if state in states and driver_of(sweep.lock) is None else ""


def objects(bucket: Bucket) -> dict[str, str]:
    """Return what is in the bucket, with its check sums."""
    page = bucket.client().list_objects_v2(Bucket="team")
    return {entry["Key"]: entry["ETag"] for entry in page.get("Contents", [])}


def store_credentials(endpoint: str) -> str:
    """Return the lines of a home's credentials that let its workers into the bucket."""
    lines = (f"AWS_ENDPOINT_URL={endpoint}", "AWS_ACCESS_KEY_ID=key", f"AWS_SECRET_ACCESS_KEY={STORE_SECRET}")
    return "\n".join([*lines, "AWS_DEFAULT_REGION=us-east-1", ""])


def search_for_secrets(stage: Stage) -> None:
    """Look into every file that was made for what opens MLflow, or the bucket."""
    plain = PASSWORD.replace("%40", "@")
    markers = {"MLflow's password": plain, "the same, quoted": PASSWORD.replace(" ", "%20"), "a key": STORE_SECRET}
    folders = [path for path in stage.scratch.iterdir() if path.is_dir() and path != stage.mlflow_folder]
    found = files_with(markers, folders)
    number = sum(1 for folder in folders for file in folder.rglob("*") if file.is_file())
    claim("no file holds a password or a key but each home's credentials", not found, found or f"{number} files")


def files_with(markers: dict[str, str], roots: list[Path]) -> list[str]:
    """Return which files below some folders hold a marker, with its name; what its owner alone can read is his.

    Args:
        markers: what must not be found, by name.
        roots: folders.
    """
    found = []
    for file in (file for root in roots for file in root.rglob("*")):
        with contextlib.suppress(OSError):  # it is gone by now, or is a socket
            own = file.name == "credentials" and not file.stat().st_mode & 0o077
            if file.is_symlink() or not file.is_file() or own:
                continue
            content = file.read_bytes()
            found += [f"{name} in {file}" for name, marker in markers.items() if marker.encode() in content]
    return found
