"""The Ray that a sweep runs on: connecting to it quietly, and how many trials fit on its nodes."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from meanflow_core.errors import ConfigError, Problem
from orchestrator.spec import Resources

log = logging.getLogger(__name__)

_STARTS = 3
"""Attempts to start a Ray of our own."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "false",  # a process for each core, of which ours could use none
    "RAY_prestart_worker_first_driver": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the engine hands out no more than fit
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
}


@contextlib.contextmanager
def connected(log: Path, *, metadata: Mapping[str, str] | None = None, **options: Any) -> Iterator[bool]:
    """Connect to the Ray that `$RAY_ADDRESS` names, or start one for the block (without dashboard).

    What Ray logs in this process goes to `log`. A Ray that was already connected is used and left connected.

    Args:
        log: a file.
        metadata: what Ray's list of jobs says of this one.
        options: of `ray.init`, for a Ray that is started here.

    Yields:
        Whether it was started here: then no other node will ever join it.
    """
    with _environment(), _logging_to(log):
        if ray.is_initialized():
            yield False
            return
        own = not (os.environ.get("RAY_ADDRESS") or options.get("address"))
        if not own:
            job: dict[str, Any] = {"job_config": ray.job_config.JobConfig(metadata=dict(metadata))} if metadata else {}
            ray.init(address=options.get("address"), log_to_driver=False, **job)
        else:
            _start(options)
        try:
            yield own
        finally:
            ray.shutdown()


def _start(options: Mapping[str, Any]) -> None:
    """Start a Ray of our own; on a busy machine it may not be up within the half minute that Ray allows itself."""
    own = {
        "address": "local",
        "include_dashboard": False,
        "log_to_driver": False,
    }
    for left in reversed(range(_STARTS)):
        try:
            ray.init(**{**own, **options})
            return
        except Exception as error:  # Ray raises nothing more special
            if "timed out during startup" not in str(error) or not left:
                raise
            log.warning("Ray did not start in time, trying again: %s", error)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set Ray's variables that the user has not set, for the block."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """Send the records of Ray's loggers to a file instead of the user's terminal.

    `ray.init` must be left to configure its logging: it then keeps this handler, which it drops otherwise.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ray")
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before
        handler.close()


def resource_bundle(resources: Resources) -> dict[str, float]:
    """Return what one worker of a trial needs, in Ray's names."""
    bundle = {"CPU": float(resources.cpu), "GPU": float(resources.gpu), **resources.custom}
    return {name: float(amount) for name, amount in bundle.items() if amount}


def nodes() -> list[dict[str, Any]]:
    """Return Ray's records of all nodes, dead ones too."""
    return list(ray.nodes())  # type: ignore[no-untyped-call]


def available_on_cluster() -> dict[str, float]:
    """Return `{cpu, gpu, <custom>}` of the nodes that $RAY_ADDRESS's cluster has now."""
    total: Counter[str] = Counter()
    with connected(Path(os.devnull)):
        for node in nodes():
            if node["Alive"]:
                total.update(node["Resources"])
    names = {"CPU": "cpu", "GPU": "gpu"}
    return {"cpu": 0.0, "gpu": 0.0, **{names.get(name, name): amount for name, amount in total.items() if _told(name)}}


def capacity(there: list[dict[str, Any]], resources: Resources) -> int:
    """Return how many trials fit on these nodes at once.

    A share of a GPU does not cross GPUs: two GPUs hold two trials of 0.6, not three.
    """
    bundle = resource_bundle(resources)
    slots = sum(_slots(node["Resources"], bundle) for node in there if node["Alive"])
    return slots // max(1, resources.workers)


def _slots(has: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    counts = []
    for name, amount in bundle.items():
        total = float(has.get(name, 0.0))
        if name == "GPU" and amount < 1:
            counts.append(int(total) * math.floor(1 / amount + 1e-6))
        else:
            counts.append(math.floor(total / amount + 1e-6))
    return min(counts, default=1000)


def check_fits(resources: Resources, *, patience: float | None = None) -> None:
    """Refuse what no node here can run.

    Args:
        resources: of one trial.
        patience: seconds to wait for a node that can. None: a minute where $RAY_ADDRESS names a cluster, whose nodes
            may still be joining, and no time on a Ray of our own.

    Raises:
        ConfigError: naming what is asked for and what the nodes have.
    """
    if patience is None:
        patience = 60.0 if os.environ.get("RAY_ADDRESS") else 0.0
    deadline = time.monotonic() + patience
    while capacity(there := nodes(), resources) == 0:
        if time.monotonic() >= deadline:
            raise _nothing_fits(there, resources)
        time.sleep(1.0)


def _nothing_fits(there: list[dict[str, Any]], resources: Resources) -> ConfigError:
    wanted = " ".join(f"{name}={amount:g}" for name, amount in resource_bundle(resources).items())
    if resources.workers > 1:
        wanted = f"{resources.workers} x ({wanted})"
    have = "; ".join(
        f"{node['NodeManagerAddress']}: "
        + ", ".join(f"{name}={amount:g}" for name, amount in sorted(node["Resources"].items()) if _told(name))
        for node in there
        if node["Alive"]
    )
    rule = (
        f"one trial needs {wanted}, and no node has that (there are: {have}); ask for less, or set `max_concurrent` "
        "where an autoscaler starts nodes on demand"
    )
    return ConfigError([Problem(key="resources", rule=rule)])


def _told(name: str) -> bool:
    return name not in ("memory", "object_store_memory") and not name.startswith("node:")
