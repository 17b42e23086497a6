"""Check that everything a sweep needs is there, before it costs money. Every failed check says what to do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.cluster import check_reachable, job_server
from orchestrator.paths import Home
from orchestrator.tracking import is_refusal_of_user, without_password

PACKAGES = ("ray", "torch", "optuna", "numpy", "safetensors")
"""Whose versions must be the same on every node; ray's must be so to the last digit."""
ENOUGH_GIB = 5.0
_UNREACHED = (
    "is the address right, the cluster up, the Ray version here the cluster's, the token in ~/.ray/auth_token? Without "
    "$RAY_ADDRESS a Ray starts on this machine"
)
_NOT_STARTED = (
    "no Ray could be started here: the machine may be very busy, or short of memory or of room in /dev/shm and /tmp; "
    "its logs are in /tmp/ray/session_latest/logs"
)
_STORAGE = {"home": "storage", "checkpoints": "checkpoint storage"}
_SHARE = {
    "home": "put $MEANSWEEP_HOME on a disk that all nodes mount under the same path (NFS, Lustre, FSx, EFS)",
    "checkpoints": "let $MEANSWEEP_STORAGE name a store that all nodes reach, e.g. s3://BUCKET/PREFIX",
}
_OPEN = {
    "home": "give the user that Ray runs as the right to write there",
    "checkpoints": "install what fsspec needs for this URL on every node (s3fs, gcsfs, adlfs), and give the nodes the "
    "right to write there",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    what_to_do: str = ""
    """Empty where all is well."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return asdict(self)


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
        reason, todo = _reason(error), "start the server, or mend $MLFLOW_TRACKING_URI"
        if is_refusal_of_user(error):
            reason = "asks for a user and a password, and does not take these"
            todo = "mend $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD"
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
            options = {"address": address} if address else {}
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
        else "whoever reaches the cluster can run code on it: `ray get-auth-token --generate`, the token into "
        "~/.ray/auth_token on every node and here, RAY_AUTH_MODE=token, then start the cluster again",
    )


# -------------------------------------------------------------------------------------------------- the nodes


def this_node(places: Mapping[str, str] | None = None, marker: str = "") -> dict[str, Any]:
    """Return what this node is like: versions, GPUs, and whether it sees and can write the storage.

    Args:
        places: folders or fsspec URLs that all nodes must share, by what they are for; None: only look at the node.
        marker: name of a file that another node has left in each.
    """
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "missing"
    facts: dict[str, Any] = {"versions": versions, "gpus": gpus_of_torch(), "nvidia": gpus_of_driver()}
    if places is not None:
        facts["storage"] = {name: {"place": place, **touch(place, marker)} for name, place in places.items()}
        facts["free_gib"] = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    return facts


def gpus_of_torch() -> int:
    """Return how many GPUs torch sees here, asked in a process that Ray has hidden none from."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    program = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else 0


def gpus_of_driver() -> int:
    """Return how many GPUs NVIDIA's driver lists here."""
    if shutil.which("nvidia-smi") is None:
        return 0
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def touch(place: str, marker: str) -> dict[str, Any]:
    """Return whether a place (a folder or an fsspec URL) can be written, and whether another node's marker is there."""
    seen, error = False, ""
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(place)
        own = f"{path}/{marker}.{uuid.uuid4().hex}"
        seen = files.exists(f"{path}/{marker}")
        files.pipe_file(own, b"here")
        files.rm_file(own)
    except Exception as failure:  # every store raises its own kind, and a missing one an ImportError
        error = re.sub(rf"/{re.escape(marker)}[.\w]*", "", f"{type(failure).__name__}: {_first_line(failure)}")
    return {"seen": seen, "writable": not error, "error": error}


@contextlib.contextmanager
def marked(place: str, marker: str) -> Iterator[None]:
    """Leave a file in a place for other nodes to see; where that cannot be done, `touch` says why."""
    files, path = None, ""
    with contextlib.suppress(Exception):
        from fsspec.core import url_to_fs

        files, path = url_to_fs(place)
        files.makedirs(path, exist_ok=True)
        files.pipe_file(f"{path}/{marker}", b"here")
    try:
        yield
    finally:
        if files is not None:
            with contextlib.suppress(Exception):
                files.rm_file(f"{path}/{marker}")


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


def judge_nodes(facts: Mapping[str, Mapping[str, Any]], here: Mapping[str, Any]) -> list[Check]:
    """Judge what the nodes have said. A pure function, so that every finding can be tested.

    Args:
        facts: by node, what `this_node` returned there, with the GPUs that Ray counts (`ray_gpus`).
        here: of the driver's own node.
    """
    return [*_judge_versions(facts, here), *_judge_gpus(facts), *_judge_storage(facts), *_judge_space(facts)]


def _judge_versions(facts: Mapping[str, Mapping[str, Any]], here: Mapping[str, Any]) -> Iterator[Check]:
    differing = [
        f"{label}: {package} {version} (here {here['versions'].get(package)})"
        for label, fact in facts.items()
        for package, version in fact["versions"].items()
        if version != here["versions"].get(package)
    ]
    yield Check(
        name="versions",
        ok=not differing,
        detail="; ".join(differing) or f"alike on {len(facts)} node(s)",
        what_to_do="install from the same constraints.txt everywhere, best as one container image" if differing else "",
    )


def _judge_gpus(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    wrong, todo = [], ""
    for label, fact in facts.items():
        torch, driver, counted = fact["gpus"], fact["nvidia"], fact["ray_gpus"]
        if max(driver, counted) > torch:
            wrong.append(f"{label}: {max(driver, counted)} GPU(s) there, torch sees {torch}")
            todo = "install the CUDA build of torch that fits the driver (`nvidia-smi` shows its version)"
        elif torch > counted:
            wrong.append(f"{label}: torch sees {torch} GPU(s), Ray counts {counted}")
            todo = todo or f"start Ray there with --num-gpus={torch}"
    total = sum(fact["gpus"] for fact in facts.values())
    detail = "; ".join(wrong) or (
        f"{total} GPU(s), seen by torch and by Ray" if total else "no GPU: trials run on CPUs"
    )
    yield Check(name="GPUs", ok=not wrong, detail=detail, what_to_do=todo)


def _judge_storage(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    for name in next(iter(facts.values()))["storage"] if facts else ():
        found = {label: fact["storage"][name] for label, fact in facts.items()}
        place = next(iter(found.values()))["place"]
        closed = {label: entry["error"] for label, entry in found.items() if not entry["writable"]}
        blind = [label for label, entry in found.items() if not entry["seen"]]
        detail, todo = f"{place}: writable, and the same on {len(facts)} node(s)", ""
        if blind and len(closed) < len(facts):
            detail = f"{place} is another one on {', '.join(blind)}"
            todo = _SHARE[name]
        elif closed:
            said: dict[str, list[str]] = {}  # mostly all nodes say the same
            for label, error in closed.items():
                said.setdefault(error, []).append(label)
            detail = f"{place}: " + "; ".join(f"{', '.join(labels)}: {error}" for error, labels in said.items())
            todo = _OPEN[name]
        yield Check(name=_STORAGE[name], ok=not (blind or closed), detail=detail, what_to_do=todo)


def _judge_space(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    full = [f"{label}: {fact['free_gib']:.1f} GiB" for label, fact in facts.items() if fact["free_gib"] < ENOUGH_GIB]
    yield Check(
        name="temporary space",
        ok=not full,
        detail="; ".join(full) or f"at least {ENOUGH_GIB:g} GiB on every node",
        what_to_do="free some: Ray keeps its object store's overflow there" if full else "",
    )


def _check_remotely(address: str, home: str | None) -> list[Check]:
    from orchestrator.cluster import ClusterError, connect, run_json

    try:
        client = connect(address)
        found = run_json(client, ["doctor", "--json"], home)
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
    return f"{type(error).__name__}: {without_password(_first_line(error))}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).strip().splitlines() if line.strip()), "no message")
