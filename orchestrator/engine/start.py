"""Starting a sweep and going on with one: the ledger, the environment, what other sweeps know, and the engine."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem
from orchestrator.engine.engine import Engine
from orchestrator.engine.environment_check import drift_of, environment, own_code, recorded
from orchestrator.engine.reuse import known_configurations, warm_observations
from orchestrator.ledger import REMOVING, Ledger, driver_of
from orchestrator.paths import Home, SweepPaths
from orchestrator.provenance import record

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec
    from orchestrator.tracking import Tracker


MakeTracker = Callable[[SweepPaths], "Tracker"]


def start_sweep(
    home: Home,
    spec: SweepSpec,
    *,
    tracker: MakeTracker | None = None,
    clock: Callable[[], float] = time.monotonic,
    resources: Mapping[str, Any] | None = None,
    device: str | None = None,
    plan: Mapping[str, Any] | None = None,
    sweep_id: str | None = None,
) -> Engine:
    """Make a new sweep and return the engine that drives it. Close it with `engine.ledger.close()`.

    Args:
        home: where it lives.
        spec: the sweep.
        tracker: makes what shows it, once the sweep is this process's own: an outbox has one writer.
        clock: seconds that never jump.
        resources: what a trial really gets, where that differs from the sweep file.
        device: type of the device that trains, if known.
        plan: what was planned, to be compared with what came of it.
        sweep_id: an id that was given to it before; None: a new one.

    Raises:
        ConfigError: a sweep of this name exists, or `warm_start` names one that does not.
        SweepBusy: it is being started by another process.
    """
    here = environment(spec, device=device)
    warm = warm_observations(home, spec)
    paths = home.sweep(spec.name)
    try:
        ledger = Ledger.create(paths, spec, environment=here, warm=warm, sweep_id=sweep_id)
    except FileExistsError:
        raise ConfigError([Problem(key="name", value=spec.name, rule=_there(paths), file=spec.file)]) from None
    try:
        if plan is not None:
            ledger.note("plan", dict(plan))
        record(ledger.paths.code, own_code(spec))
        known = known_configurations(home, spec, here) if spec.on_duplicate != "run" else {}
        made = tracker(ledger.paths) if tracker is not None else None
        return Engine(ledger, tracker=made, clock=clock, resources=resources, environment=here, known=known)
    except BaseException:
        ledger.close()
        raise


def _there(paths: SweepPaths) -> str:
    """Say what may be done where a sweep of this name is there."""
    name = paths.name
    if Ledger.open(paths).state().state == "finished":
        return (
            f"exists already and has finished: `meansweep extend N {name}` lets it run more trials, `--name OTHER "
            f"on_duplicate=run` trains them all again beside it, `meansweep remove {name}` makes room for it"
        )
    return f"exists already; `meansweep resume {name}` goes on with it, or give another --name"


def resume_sweep(
    home: Home,
    name: str,
    *,
    strict: bool = False,
    tracker: MakeTracker | None = None,
    clock: Callable[[], float] = time.monotonic,
    resources: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> Engine:
    """Go on with a sweep, whatever ended it, and return the engine that drives it.

    Args:
        home: where it lives.
        name: the sweep.
        strict: refuse if the environment differs from the one it was started in, and stop when a worker turns out to
            have another device or other data; else what runs from now on is labelled.
        tracker: makes what shows it, once the sweep is this process's own: an outbox has one writer.
        clock: seconds that never jump.
        resources: see `start_sweep`.
        device: see `start_sweep`.

    Raises:
        SweepBusy: another process drives it.
        LedgerError: there is none of this name, or its ledger is damaged.
        ConfigError: `strict`, and the environment differs.
    """
    ledger = Ledger.open(home.sweep(name), write=True)
    try:
        if ledger.state().state == REMOVING:
            rule = f"its removal was cut off; `meansweep remove {name}` brings it to its end"
            raise ConfigError([Problem(key="SWEEP", value=name, rule=rule)])
        spec = ledger.spec()
        here = environment(spec, device=device)
        if recorded(ledger) != ledger.environment():
            ledger.set_environment(recorded(ledger))
        differences = drift_of(ledger, here)
        if strict and differences:
            rule = "the environment differs from the one the sweep was started in: " + "; ".join(differences)
            raise ConfigError([Problem(key="--strict", rule=rule)])
        record(ledger.paths.code, own_code(spec))
        known = known_configurations(home, spec, here) if spec.on_duplicate != "run" else {}
        made = tracker(ledger.paths) if tracker is not None else None
        return Engine(
            ledger, tracker=made, clock=clock, resources=resources, environment=here, known=known, strict=strict
        )
    except BaseException:
        ledger.close()
        raise


def neighbours(paths: SweepPaths) -> list[str]:
    """Return the other sweeps of this home that are driven on this machine now."""
    drivers = {other.name: driver_of(other.lock) for other in Home(paths.root.parents[1]).all_sweeps()}
    here = [name for name, driver in drivers.items() if driver is not None and driver[1] == socket.gethostname()]
    return [name for name in here if name != paths.name]
