"""A Ray cluster seen from a laptop: send a sweep there, and run commands on it there, as Ray jobs.

What travels is the code of this installation and of the sweep's trainer, and the sweep file with its base configuration
inside; data and results stay on the cluster's storage. The cluster needs the same packages, nothing else of ours.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meanflow_core.errors import ConfigError, Problem
from meanflow_core.yamlfile import write_yaml
from orchestrator.remote import BEGIN, read_result, redirect_out
from orchestrator.spec import read_spec

SHIPPED = ("meanflow_core", "orchestrator")
LEFT_OUT = {"__pycache__", "data", "meansweep-data", "mlruns", "node_modules", "venv", "build", "dist"}
"""Folders that are not shipped with a package, unless they hold code; hidden ones are not either."""
MOST_BYTES = 50 * 2**20
DEFAULT_HOME = "~/meansweep-data"
"""On the cluster, where neither `--remote-home` nor its own $MEANSWEEP_HOME says otherwise."""
_TAG = "meansweep"


class ClusterError(RuntimeError):
    """The cluster cannot be reached, wants a token, or a job failed; the message says what to do."""


def submit(file: Path | str, address: str, *, home: str | None = None, follow: bool = False) -> str:
    """Send a sweep to a cluster and return its name, as soon as the cluster has accepted it.

    Args:
        file: the sweep file; it is read and checked here.
        address: of the cluster's job server, e.g. http://127.0.0.1:8265.
        home: folder of all state on the cluster, on storage that every node shares. By default what
            $MEANSWEEP_HOME says there, or else ~/meansweep-data.
        follow: print what the driver prints until it ends; Ctrl-C leaves it running.

    Raises:
        ConfigError: the sweep file is wrong, or a sweep of this name runs there already.
        ClusterError: the cluster cannot be reached, or (with `follow`) the sweep failed.
    """
    spec = read_spec(file)
    client = connect(address)
    running = [job for job in _jobs(client, spec.name) if job.status in ("PENDING", "RUNNING")]
    if running:
        rule = f"runs on {address} already (job {running[-1].submission_id}); give this one another `name`"
        raise ConfigError([Problem(key="name", value=spec.name, rule=rule, file=str(file))])
    with staged(spec.trainer) as folder:
        content = write_yaml(sweep_content(spec.source))
        (folder / "sweep.yaml").write_text(content, encoding="utf-8")
        job = _start(client, folder, ["--follow", "run", "sweep.yaml"], home, name=spec.name, trainer=spec.trainer)
    if follow:
        code = follow_job(client, job)
        if code:
            raise ClusterError(f"the sweep {spec.name} ended with exit code {code}; its output is above")
    return spec.name


def run_remotely(address: str, words: Sequence[str]) -> int:
    """Run `meansweep WORDS` on the cluster, where the sweep's folder is, and print its output here.

    `resume` starts a driver there and returns at once. A file asked for with `-o` is written here.

    Returns:
        The command's exit code.

    Raises:
        ClusterError: the cluster cannot be reached, or the command could not be run there.
    """
    client = connect(address)
    words = list(words)
    name = next((word for word in words[1:] if not word.startswith("-")), None)
    drivers = _jobs(client, name) or _jobs(client, None)
    home = (drivers[-1].metadata.get("home") or None) if drivers else None
    following = bool({"-f", "--follow"} & set(words))
    if words[0] == "resume":
        words = [word for word in words if word not in ("-f", "--follow")]
        trainer = drivers[-1].metadata.get("trainer") if drivers else None
        name = drivers[-1].metadata[_TAG] if drivers and name is None else name
        with staged(trainer) as folder:
            job = _start(client, folder, ["--follow", *words], home, name=name, trainer=trainer)
        if following:
            return follow_job(client, job)
        print(f"resumed; next: meansweep status {name or ''} --address {address}".replace("  ", " "))
        return 0
    if following:
        with staged() as folder:
            job = _start(client, folder, ["--follow", *words], home)
        return follow_job(client, job)
    result = _run(client, words, home)
    _, asked = redirect_out(words, "")
    if result["file"] is not None and asked is not None:
        Path(asked).write_bytes(base64.b64decode(result["file"]))
    sys.stdout.write(result["out"])
    sys.stderr.write(result["err"])
    return int(result["code"])


def run_json(client: Any, words: Sequence[str]) -> Any:
    """Run a command with `--json` on the cluster and return what it printed.

    Raises:
        ClusterError: it could not be run there, or printed no JSON.
    """
    result = _run(client, words, None)
    try:
        return json.loads(result["out"])
    except ValueError as error:
        raise ClusterError(f"`meansweep {' '.join(words)}` failed there: {result['err'].strip()}") from error


def _run(client: Any, words: Sequence[str], home: str | None) -> dict[str, Any]:
    with staged() as folder:
        job = _start(client, folder, words, home)
    _wait(client, job)
    log = client.get_job_logs(job)
    result = read_result(log)
    if result is None:
        raise ClusterError(f"`meansweep {' '.join(words)}` could not be run on the cluster:\n{log.strip()}")
    return result


def connect(address: str) -> Any:
    """Return a client of the cluster's job server.

    Raises:
        ClusterError: it cannot be reached, or refuses us; the message says what to do.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    for noisy in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{noisy}").setLevel(logging.WARNING)  # not a line for each upload
    try:
        client = JobSubmissionClient(address)
        client.list_jobs()  # the first request that needs the right token
    except Exception as error:  # Ray raises RuntimeError, ConnectionError and its own kinds for the same things
        raise ClusterError(explain(address, str(error))) from error
    if os.environ["RAY_AUTH_MODE"] != "token":
        print(
            f"warning: RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r}: {address} takes jobs from everyone who can "
            "reach it",
            file=sys.stderr,
        )
    return client


def explain(address: str, error: str) -> str:
    """Say in words what keeps us from a cluster, and what to do about it."""
    lower = error.lower()
    if any(words in lower for words in ("no authentication token", "no token was found", "find an authentication")):
        return (
            f"no token for {address} is known here. Clusters ask for one, so that nobody else can run code on them. "
            "Put the cluster's token into the file ~/.ray/auth_token (or the variable RAY_AUTH_TOKEN): "
            "`ray get-auth-token` prints it on the head node, `ray get-auth-token --generate` makes one before the "
            "cluster is started. For a cluster that was started without authentication: RAY_AUTH_MODE=disabled."
        )
    if any(
        word in lower for word in ("401", "403", "unauthor", "forbidden", "invalid or incorrect", "token is invalid")
    ):
        return (
            f"{address} refuses this token. `ray get-auth-token` on the head node prints the right one; it belongs "
            "into the file ~/.ray/auth_token, or the variable RAY_AUTH_TOKEN, which comes first."
        )
    return (
        f"{address} cannot be reached: {error.strip().splitlines()[-1] if error.strip() else 'no answer'}. It must be "
        "the address of the cluster's dashboard (http://HEAD:8265), through a tunnel if need be: "
        "`ssh -L 8265:localhost:8265 HEAD`, then --address http://127.0.0.1:8265."
    )


# ------------------------------------------------------------------------------------------------------- jobs


def _start(
    client: Any,
    folder: Path,
    words: Iterable[str],
    home: str | None,
    *,
    name: str | None = None,
    trainer: str | None = None,
) -> str:
    """Start a job that runs our command in a copy of `folder`, and return its id.

    Args:
        client: of the cluster.
        folder: what is shipped.
        words: of the command.
        home: of the sweep; None leaves it to the cluster.
        name: of the sweep that the job drives; None for a command that only asks.
        trainer: of that sweep; kept with the job, for a later `resume`.
    """
    put_home = f"export MEANSWEEP_HOME={_quoted(home)}" if home else f": ${{MEANSWEEP_HOME:={DEFAULT_HOME}}}"
    command = f"{put_home}; export MEANSWEEP_HOME; python -m orchestrator.remote {shlex.join(words)}"
    metadata = {_TAG: name or "", "home": home or "", "trainer": trainer or ""}
    submission = f"meansweep-{name or 'command'}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "COLUMNS": str(_columns())}
    for variable in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MEANSWEEP_STORAGE",
    ):
        if variable in os.environ:
            environment[variable] = os.environ[variable]
    return str(
        client.submit_job(
            entrypoint=command,
            submission_id=submission,
            runtime_env={"working_dir": str(folder), "env_vars": environment},
            metadata=metadata,
        )
    )


def _quoted(path: str) -> str:
    """Quote a path for the shell, leaving a leading `~/` to it."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def _columns() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _jobs(client: Any, name: str | None) -> list[Any]:
    """Return the drivers of a sweep (of all sweeps), oldest first."""
    jobs = [job for job in client.list_jobs() if (job.metadata or {}).get(_TAG)]
    if name is not None:
        jobs = [job for job in jobs if job.metadata[_TAG] == name]
    return sorted(jobs, key=lambda job: job.start_time or 0)


def _wait(client: Any, job: str, *, sleep: Any = time.sleep) -> str:
    """Wait for a job's end and return its status."""
    pause = 0.2
    while (status := str(client.get_job_status(job))) in ("PENDING", "RUNNING"):
        sleep(pause)
        pause = min(2.0, pause * 1.2)
    return status


def follow_job(client: Any, job: str) -> int:
    """Print what a job's command prints until it ends, and return its exit code. Ctrl-C leaves it running."""

    async def tail() -> None:
        begun, pending = False, ""
        async for text in client.tail_job_logs(job):
            if begun:
                print(text, end="", flush=True)
                continue
            pending += text
            if BEGIN in pending:  # before it stand Ray's own lines
                begun = True
                print(pending.partition(BEGIN + "\n")[2], end="", flush=True)
        if not begun:
            print(pending, end="", file=sys.stderr)

    asyncio.run(tail())
    status = _wait(client, job)
    code = client.get_job_info(job).driver_exit_code
    return int(code) if code is not None else (0 if status == "SUCCEEDED" else 1)


# ------------------------------------------------------------------------------------------------------ staging


@contextmanager
def staged(trainer: str | None = None) -> Iterator[Path]:
    """Make a folder with the code that a job needs: our packages, and that of a sweep's trainer.

    Raises:
        ConfigError: the trainer's package cannot be found here, or is too big to be code.
    """
    with tempfile.TemporaryDirectory(prefix="meansweep-submit-") as scratch:
        folder = Path(scratch)
        packages = {*SHIPPED, *([trainer.partition(":")[0].partition(".")[0]] if trainer else [])}
        for package in sorted(packages):
            copy_package(package, folder)
        yield folder


def sweep_content(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep file that stands alone: its base configuration is in it, not beside it."""
    content: dict[str, Any] = json.loads(json.dumps(source["sweep"]))
    return {**content, "base": source["base"]}


def copy_package(name: str, folder: Path) -> None:
    """Copy an importable package, or module, below `folder`.

    Raises:
        ConfigError: there is none of that name, or it is too big.
    """
    found = importlib.util.find_spec(name)
    if found is None or not (found.submodule_search_locations or found.origin):
        raise ConfigError([Problem(key="trainer", value=name, rule="no such package here; it cannot be sent along")])
    if found.submodule_search_locations:
        for place in found.submodule_search_locations:
            shutil.copytree(place, folder / name, ignore=_left_out, dirs_exist_ok=True)
    else:
        shutil.copy2(str(found.origin), folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        rule = f"its package is {size >> 20} MiB, which is not code alone; keep data out of the package's folder"
        raise ConfigError([Problem(key="trainer", value=name, rule=rule)])


def _left_out(place: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name.startswith(".") or (name in LEFT_OUT and not Path(place, name, "__init__.py").exists())
    ]
