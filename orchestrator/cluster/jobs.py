"""Ray's job server: connecting to it with a token, starting our command as a job, and following what it prints."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.entrypoint import BEGIN
from orchestrator.credentials import without_password
from orchestrator.provenance import SAID_HOST, SAID_USER, host_name, user_name

DEFAULT_HOME = "~/meansweep-data"
"""On the cluster, where neither `--remote-home` nor its own $MEANSWEEP_HOME says otherwise."""
SWEEP_TAG, TRAINING_TAG = "meansweep", "meansweep-training"
"""Keys of a job's metadata: the sweep that it drives, or the final training that it runs."""
ID_TAG = "meansweep-id"
"""Key of a job's metadata: the id of the sweep that it drives."""
PACKAGES_TAG = "meansweep-packages"
"""The packages of the user's own networks and data, which travel with it, joined by commas."""
UNDER_WAY = ("PENDING", "RUNNING")
FORWARDED = ("MLFLOW_TRACKING_URI", "MEANSWEEP_STORAGE")
"""Variables of this machine's environment that a job gets, without passwords: Ray logs them on the node."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached, wants a token, or a job failed; the message says what to do."""


class JobTaken(Exception):
    """There is a job of this name already: somebody else was faster."""


def job_server(address: str) -> str:
    """Return the address with `http://` before it if a job server answers there.

    Without it Ray's client takes an address for that of Ray itself (HOST:6379), and tries for minutes to speak to it.
    """
    if "://" in address or ":" not in address:
        return address
    try:
        urllib.request.urlopen(f"http://{address}/api/version", timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it wants a token: an answer
    except (OSError, http.client.HTTPException):
        return address
    return f"http://{address}"


def check_reachable(address: str | None) -> None:
    """Raise OSError at once where nobody listens at `HOST:PORT`; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "://" not in host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def connect(address: str) -> Any:
    """Return a client of the cluster's job server.

    Args:
        address: see `job_server`.

    Raises:
        ClusterError: it cannot be reached, or refuses us; the message says what to do.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    for noisy in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{noisy}").setLevel(logging.WARNING)  # not a line for each upload
    try:
        check_reachable(address)
        client = JobSubmissionClient(address)
        client.list_jobs()  # the first request that needs the right token
    except Exception as error:  # Ray raises RuntimeError, ConnectionError and its own kinds for the same things
        raise ClusterError(explain(address, str(error))) from error
    if os.environ["RAY_AUTH_MODE"] != "token":
        print(
            f"warning: RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r}: {address} accepts jobs from anyone who can "
            "reach it",
            file=sys.stderr,
        )
    return client


def explain(address: str, error: str) -> str:
    """Say in words what keeps us from a cluster, and what to do about it."""
    lower = error.lower()
    if any(words in lower for words in ("no authentication token", "no token was found", "find an authentication")):
        return (
            f"no token for {address} is known here. Clusters ask for one, so that no one else can run code on them. "
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
    reason = error.strip().splitlines()[-1].rstrip(".") if error.strip() else "no answer"
    return (
        f"{address} cannot be reached: {reason}. It must be "
        "the address of the cluster's dashboard (http://HEAD:8265), through a tunnel if need be: "
        "`ssh -L 8265:localhost:8265 HEAD`, then --address http://127.0.0.1:8265."
    )


# ------------------------------------------------------------------------------------------------------- jobs


def start(
    client: Any,
    folder: Path,
    words: Iterable[str],
    home: str | None,
    *,
    tags: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    number: int | None = None,
) -> str:
    """Start a job that runs our command in a copy of `folder`, and return its id.

    Args:
        client: of the cluster.
        folder: what is shipped.
        words: of the command.
        home: of the sweep; None leaves it to the cluster.
        tags: kept with the job: what it drives or trains, and a sweep's trainer, for a later `resume`. None: the
            command only asks.
        variables: of the environment, where this machine's own does not say.
        number: of the job among the drivers of its sweep: Ray takes one job of a name and number alone.

    Raises:
        JobTaken: there is a job of this name and number.
        ClusterError: it takes none.
    """
    put_home = f"export MEANSWEEP_HOME={_quoted(home)}" if home else f": ${{MEANSWEEP_HOME:={DEFAULT_HOME}}}"
    command = f"{put_home}; export MEANSWEEP_HOME; python -m orchestrator.cluster.entrypoint {shlex.join(words)}"
    metadata = {**(tags or {}), "home": home or ""}
    what = (tags or {}).get(SWEEP_TAG) or (tags or {}).get(TRAINING_TAG) or "command"
    mark = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}" if number is None else str(number)
    submission = f"meansweep-{what}-{mark}"
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": str(shutil.get_terminal_size((100, 24)).columns),
        **(variables or {}),
        **{name: without_password(os.environ[name]) for name in FORWARDED if name in os.environ},
        SAID_USER: user_name(),
        SAID_HOST: host_name(),
    }
    try:
        return str(
            client.submit_job(
                entrypoint=command,
                submission_id=submission,
                runtime_env={"working_dir": str(folder), "env_vars": environment},
                metadata=metadata,
            )
        )
    except Exception as error:  # Ray raises RuntimeError with the server's own traceback in it
        if number is not None and f"{submission} already exists" in str(error):
            raise JobTaken(submission) from error
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        raise ClusterError(
            f"the cluster took no job: {lines[-1].strip()}. Its head must run Ray's job agent: `pip install "
            "'ray[default]'` there, and `ray start --head` without --include-dashboard=false"
        ) from error


def _quoted(path: str) -> str:
    """Quote a path for the shell, leaving a leading `~/` to it."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def drivers_of(client: Any, sweep: str | None) -> list[Any]:
    """Return the drivers of a sweep (None: of all sweeps), oldest first."""
    return _tagged(client, SWEEP_TAG, sweep)


def next_number(drivers: Iterable[Any], sweep: str) -> int:
    """Return the number of a sweep's next driver: two who ask in the same moment get the same."""
    found = (re.fullmatch(rf"meansweep-{re.escape(sweep)}-(\d+)", str(job.submission_id)) for job in drivers)
    return 1 + max((int(match[1]) for match in found if match is not None), default=0)


def trainings_of(client: Any, name: str | None) -> list[Any]:
    """Return the runs of a final training (None: of all), oldest first."""
    return _tagged(client, TRAINING_TAG, name)


def _tagged(client: Any, tag: str, value: str | None) -> list[Any]:
    jobs = [job for job in client.list_jobs() if (job.metadata or {}).get(tag)]
    return sorted(
        (job for job in jobs if value in (None, job.metadata[tag])),
        key=lambda job: job.start_time or 0,
    )


def variables_of(job: Any) -> dict[str, str]:
    """Return which of `FORWARDED` a job was given: who goes on with a sweep need not set them again."""
    given = (job.runtime_env or {}).get("env_vars") or {}
    return {name: given[name] for name in FORWARDED if name in given}


def output_of(client: Any, job: str) -> str:
    """Return what a job's command has printed so far, without Ray's own lines if it has begun."""
    log = str(client.get_job_logs(job))
    return log.partition(BEGIN + "\n")[2] if BEGIN in log else log


def wait(client: Any, job: str, *, sleep: Any = time.sleep) -> str:
    """Wait for a job's end and return its status."""
    pause = 0.1
    while (status := str(client.get_job_status(job))) in UNDER_WAY:
        sleep(pause)
        pause = min(2.0, pause * 1.05)  # half a second after nine seconds
    return status


def exit_code(client: Any, job: str) -> int:
    """Return the exit code of a job that has ended."""
    info = client.get_job_info(job)
    return int(info.driver_exit_code) if info.driver_exit_code is not None else int(str(info.status) != "SUCCEEDED")


def follow_job(client: Any, job: str, *, leaving: str = "", show: Callable[[str], str] = str) -> int:
    """Print what a job's command prints until it ends, line by line, and return its exit code.

    Args:
        client: of the cluster.
        job: the job.
        leaving: said on Ctrl-C, which leaves the job running.
        show: what is printed of a text.
    """

    async def tail() -> None:
        begun, pending = False, ""
        async for text in client.tail_job_logs(job):
            pending += text
            if not begun and BEGIN + "\n" in pending:  # before it stand Ray's own lines
                begun, pending = True, pending.partition(BEGIN + "\n")[2]
            if begun:
                lines, newline, pending = pending.rpartition("\n")
                print(show(lines + newline), end="", flush=True)
        print(show(pending), end="", file=sys.stdout if begun else sys.stderr)

    try:
        asyncio.run(tail())
    except KeyboardInterrupt:
        print(f"\n{leaving}", file=sys.stderr)
        raise
    wait(client, job)
    return exit_code(client, job)
