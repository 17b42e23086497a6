"""Check that everything a sweep needs is there, before it costs money. Every failed check says what to do."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.cli.doctor_nodes import ENOUGH_GIB, Check, first_line, judge_nodes, marked, this_node
from orchestrator.cluster import check_reachable, job_server
from orchestrator.credentials import without_password
from orchestrator.paths import Home
from orchestrator.tracking import is_refusal_of_user

_UNREACHED = (
    "is the address right, the cluster up, the Ray version here the cluster's, the token in ~/.ray/auth_token? Without "
    "$RAY_ADDRESS a Ray starts on this machine"
)
_NOT_STARTED = (
    "no Ray could be started here: the machine may be very busy, or short of memory or of room in /dev/shm and /tmp; "
    "its logs are in /tmp/ray/session_latest/logs"
)


def check_all(
    home: Home,
    *,
    address: str | None = None,
    mlflow: Callable[[], Any] | None = None,
    remote_home: str | None = None,
) -> list[Check]:
    """Look at everything.

    Args:
        home: folder of all state.
        address: of a Ray cluster to connect to (`auto`, `HOST:PORT`); None: $RAY_ADDRESS, or a Ray started for this.
            The address of a job server (http://...) has the checks run there, on the head node.
        mlflow: returns if MLflow answers, raises if not.
        remote_home: folder of all state on the cluster behind a job server; None: see `submit`.
    """
    address = None if address is None else job_server(address)
    if address is not None and address.startswith("http"):
        return _check_remotely(address, remote_home)
    checks = [check_disk(home.root, "disk space here")]
    checks += check_ray(home, address)
    if mlflow is not None:
        checks.append(check_mlflow(mlflow))
    return checks


def checks_table(checks: list[Check]) -> Any:
    """Return the checks as a table for rich's console."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "found", "what to do", box=None, pad_edge=False)
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("no", style="bold red")
        table.add_row(mark, check.name, Text(check.detail), Text(check.what_to_do))
    return table


# ---------------------------------------------------------------------------------------------- single checks


def check_disk(folder: Path, name: str, *, usage: Callable[[Path], Any] = shutil.disk_usage) -> Check:
    """Is there room below `folder`?"""
    there = folder
    while not there.exists():
        there = there.parent
    free = usage(there).free / 2**30
    return Check(
        name=name,
        ok=free >= ENOUGH_GIB,
        detail=f"{free:.0f} GiB free at {there}",
        what_to_do=""
        if free >= ENOUGH_GIB
        else f"free some, or point $MEANSWEEP_HOME to a disk with {ENOUGH_GIB:g} GiB",
    )


def check_mlflow(ping: Callable[[], Any]) -> Check:
    """Does MLflow answer?"""
    place = os.environ.get("MLFLOW_TRACKING_URI", "the SQLite file in the home")
    try:
        ping()
    except Exception as error:  # whatever the client raises is the finding
        reason, todo = _reason(error), "start the server, or fix $MLFLOW_TRACKING_URI"
        if is_refusal_of_user(error):
            reason = "asks for a user and a password, and rejects these"
            todo = "fix $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD"
        todo += "; a sweep runs without it and `meansweep sync` sends everything later"
        return Check(name="MLflow", ok=False, detail=f"{without_password(place)}: {reason}", what_to_do=todo)
    return Check(name="MLflow", ok=True, detail=without_password(place))


def check_ray(home: Home, address: str | None = None) -> list[Check]:
    """Is Ray there, are its nodes alike, do they see their GPUs and the same storage?"""
    import ray

    from orchestrator.runners import connected, nodes

    where = address or os.environ.get("RAY_ADDRESS")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            check_reachable(where)
            options: dict[str, Any] = {"address": address} if address else {}
            with connected(Path(scratch) / "ray.log", **options):
                alive = [node for node in nodes() if node["Alive"]]
                there = {_label(node): node for node in alive}
                found = [
                    Check(name="Ray", ok=True, detail=f"{ray.__version__}, {_sum(there.values())}"),
                    check_token(),
                ]
                facts = _ask_nodes(there, home)
        except Exception as error:  # Ray raises a kind of its own for every way not to connect
            todo = _UNREACHED if where else _NOT_STARTED
            return [Check(name="Ray", ok=False, detail=f"{where or 'this machine'}: {_reason(error)}", what_to_do=todo)]
    return [*found, *judge_nodes(facts, this_node())]


def check_token() -> Check:
    """Is the cluster closed to strangers?"""
    closed = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    local = not os.environ.get("RAY_ADDRESS")
    return Check(
        name="Ray token",
        ok=closed or local,
        detail="asked for" if closed else "not asked for" + (" (this machine's own Ray)" if local else ""),
        what_to_do=""
        if closed or local
        else "anyone who reaches the cluster can run code on it: `ray get-auth-token --generate`, the token into "
        "~/.ray/auth_token on every node and here, RAY_AUTH_MODE=token, then start the cluster again",
    )


# -------------------------------------------------------------------------------------------------- the nodes


def _ask_nodes(there: Mapping[str, Mapping[str, Any]], home: Home) -> dict[str, dict[str, Any]]:
    """Run `this_node` on every node, with a marker file of this node in each place that all must share."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    places = {"home": str(home.root)}
    if os.environ.get("MEANSWEEP_STORAGE"):
        places["checkpoints"] = os.environ["MEANSWEEP_STORAGE"].rstrip("/")
    marker = f".doctor-{uuid.uuid4().hex}"
    with contextlib.ExitStack() as markers:
        for place in places.values():
            markers.enter_context(marked(place, marker))
        asked = {
            label: ray.remote(this_node)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(places, marker)
            for label, node in there.items()
        }
        answers = {label: ray.get(reference, timeout=180) for label, reference in asked.items()}
    for label, node in there.items():
        answers[label]["ray_gpus"] = int(node["Resources"].get("GPU", 0))
    return answers


def _check_remotely(address: str, home: str | None) -> list[Check]:
    from orchestrator.cluster import ClusterError, run_json

    try:
        found = run_json(address, ["doctor", "--json"], home)
    except ClusterError as error:
        text = str(error)
        return [Check(name="job server", ok=False, detail=text.partition(". ")[0], what_to_do=text.partition(". ")[2])]
    checks = [Check(**check) for check in found]
    there = next((check.detail.partition(",")[0] for check in checks if check.name == "Ray" and check.ok), None)
    return [check_client(address, there), *checks]


def check_client(address: str, there: str | None) -> Check:
    """Is the job server's Ray (None: not known) the one that is installed here?"""
    here = metadata.version("ray")
    same = there in (None, here)
    return Check(
        name="job server",
        ok=same,
        detail=address if same else f"{address} runs Ray {there}, here is {here}",
        what_to_do="" if same else f"pip install 'ray[default,tune,train]=={there}' here",
    )


def _label(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:4]}"


def _sum(nodes: Any) -> str:
    nodes = list(nodes)
    cpus = sum(node["Resources"].get("CPU", 0) for node in nodes)
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    return f"{len(nodes)} node(s), {cpus:g} CPU(s), {gpus:g} GPU(s)"


def _reason(error: BaseException) -> str:
    """Return the first cause of an error in a line: what clients wrap around it says less."""
    while (cause := error.__cause__ or error.__context__) is not None and str(cause).strip():
        error = cause
    return f"{type(error).__name__}: {without_password(first_line(error))}"
