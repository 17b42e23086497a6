"""Starting a sweep, going on with one, and running it to its end with its table."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError
from orchestrator.api.granting import with_grant
from orchestrator.formatting import count, join

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.engine import Engine, MakeTracker
    from orchestrator.ledger import Ledger
    from orchestrator.paths import Home, SweepPaths
    from orchestrator.results import LiveDisplay
    from orchestrator.spec import SweepSpec


class SweepFailed(Exception):
    """A sweep could not be started or run to its end, for a reason that is not in its file."""


def begin(
    home: Home,
    source: Path | str | Mapping[str, Any],
    words: Sequence[str],
    *,
    inline: bool,
    sweep_id: str | None = None,
) -> Engine:
    """Start a new sweep and return the engine that `drive` runs.

    Args:
        home: where it lives.
        source: the sweep file, or its content.
        words: `key=value`, which replace keys of it.
        inline: in this process, without Ray.
        sweep_id: that it was given when it was sent; None: a new one.

    Raises:
        ConfigError: the file is wrong, something is missing here, or a sweep of this name exists.
        SweepFailed: another process is starting it, or its store of checkpoints does not answer.
    """
    from orchestrator.engine import start_sweep
    from orchestrator.ledger import SweepBusy
    from orchestrator.planning import make_plan
    from orchestrator.spec import read_spec

    spec = read_spec(source, words)
    _demand_ready(spec, inline=inline, again="nothing was started, and the same command starts it")
    spec, there = with_grant(spec, source, words, on_cluster=bool(os.environ.get("RAY_ADDRESS")) and not inline)
    for note in spec.notes:
        print(f"note: {note}", flush=True)
    planned = make_plan(spec, resources_available=there).to_dict()
    try:
        return start_sweep(home, spec, tracker=_tracker(home), plan=planned, sweep_id=sweep_id)
    except SweepBusy as busy:
        raise SweepFailed(str(busy)) from busy


def go_on(home: Home, paths: SweepPaths, *, strict: bool = False, inline: bool = False) -> Engine | str:
    """Take up a sweep that was interrupted, stopped or extended.

    Args:
        home: where it lives.
        paths: its folder.
        strict: refuse to go on in another environment.
        inline: in this process, without Ray.

    Returns:
        The engine that `drive` runs; or, where there is nothing to run, what was done instead, in words.

    Raises:
        ConfigError: something is missing here.
        SweepFailed: another process drives it, its ledger cannot be read, its store of checkpoints does not answer, or
            `strict` refuses.
    """
    from orchestrator.engine import control, resume_sweep
    from orchestrator.ledger import Ledger, LedgerError, SweepBusy
    from orchestrator.results import standing

    ledger = Ledger.open(paths)
    state = ledger.state()
    if state.state == "finished" and all(trial.state.ended for trial in standing(ledger)):
        reason = f" ({state.reason})" if state.reason else ""
        return f"{paths.name} has finished{reason}; `meansweep extend N {paths.name}` lets it run more trials"
    _demand_ready(ledger.spec(), inline=inline, again=f"nothing is lost. Go on with: meansweep resume {paths.name}")
    try:
        engine = resume_sweep(home, paths.name, strict=strict, tracker=_tracker(home))
    except SweepBusy as busy:
        if Ledger.open(paths).state().state != "paused":
            raise SweepFailed(str(busy)) from busy
        return control.request(paths, control.resume())  # its driver is alive and waits
    except (LedgerError, ConfigError) as error:
        raise SweepFailed(str(error)) from error
    for line in engine.drift:
        _complain(f"note: {line}; trials that run from now on are labelled")
    return engine


def drive(
    engine: Engine,
    *,
    inline: bool,
    console: Console | None = None,
    then: Callable[[Ledger], None] | None = None,
) -> None:
    """Run a sweep to its end with its table. Closes its tracker and its ledger.

    Args:
        engine: of `begin` or `go_on`.
        inline: in this process, without Ray.
        console: where the table is shown; None: rich's own choice, which knows notebooks.
        then: called with the ledger once the sweep has come to its end, before that is closed.

    Raises:
        KeyboardInterrupt: it was interrupted; nothing is lost.
        SweepFailed: Ray went away.
    """
    from orchestrator.cluster import DRIVING
    from orchestrator.results import LiveDisplay

    spec, tracker = engine.spec, engine.tracker
    with engine.ledger as ledger:
        if not inline:
            _tell_of_neighbours(ledger)
        shown = LiveDisplay(spec, console, log=ledger.paths.driver_log, before=ledger.trials())
        if not shown.redraws:  # a table tells it
            ended = sum(trial.state.ended for trial in ledger.trials())
            done = f"; {count(ended, 'trial')} of it ended before" if ended else ""
            print(f"{DRIVING} {spec.name} in {ledger.paths.root}{done}", flush=True)
        try:
            with shown as display:
                _run(engine, display, inline=inline)
        except KeyboardInterrupt:  # while the runner was still starting
            ledger.set_state("interrupted", "interrupted by Ctrl-C")
        finally:
            if tracker is not None:
                finish_sending(tracker.close, spec.name)
                if tracker.refused:
                    listed = f"`meansweep sync {spec.name} --check` says which and why"
                    _complain(f"MLflow has refused {tracker.refused} events; {listed}")
        if ledger.state().state == "interrupted":
            _complain(f"\ninterrupted; nothing is lost. Go on with: meansweep resume {spec.name}")
            raise KeyboardInterrupt
        if then is not None:
            then(ledger)


def finish_sending(close: Callable[[float], int], name: str, *, seconds: float = 30.0) -> None:
    """Wait for what MLflow has still to be sent, and say so where it takes longer than a moment.

    Args:
        close: sends what is left, at most so many seconds long, and returns how much remains; may be called again.
        name: of the sweep or training.
        seconds: the longest wait. Ctrl-C ends it.
    """
    began = time.monotonic()
    try:
        left = close(2.0)
        if left and time.monotonic() - began > 1.9:  # sooner: it has given up, MLflow is down
            _complain(f"waiting for MLflow, at most {seconds:g} s (Ctrl-C ends the wait): {left} events left")
            left = close(seconds - 2.0)
    except KeyboardInterrupt:
        left = close(0.0)
    if left:
        _complain(f"{left} events queued for MLflow; `meansweep sync {name}` sends them")


def _demand_ready(spec: SweepSpec, *, inline: bool, again: str) -> None:
    """Refuse to start what cannot work here; of a cluster, the nodes may have what this machine lacks.

    Args:
        spec: the sweep.
        inline: in this process, without Ray.
        again: what is said of the sweep where its store of checkpoints does not answer.
    """
    from orchestrator.planning import demand_ready, demand_storage
    from orchestrator.worker import StoreAway

    try:
        if inline or not os.environ.get("RAY_ADDRESS"):
            demand_ready(spec, _complain)
        else:
            demand_storage(_complain)
    except StoreAway as error:
        raise SweepFailed(f"the store of checkpoints does not answer: {error}; {again}") from error


def _tracker(home: Home) -> MakeTracker:
    from orchestrator.tracking import MlflowTracker, Store

    return lambda paths: MlflowTracker(paths.outbox, Store.of(home))


def _tell_of_neighbours(ledger: Ledger) -> None:
    """Say which sweeps each take this machine for their own; one Ray for all of them would share it out."""
    from orchestrator.engine import neighbours

    others = [] if os.environ.get("RAY_ADDRESS") else neighbours(ledger.paths)
    if others:
        _complain(
            f"note: {join(others)} {'runs' if len(others) == 1 else 'run'} on this machine too, and each sweep counts "
            "all its cores and GPUs as its own; `max_concurrent=N` limits the trials of one, and a Ray for all of them "
            "(`ray start --head`, then RAY_ADDRESS=auto) shares the machine out"
        )


def _run(engine: Engine, display: LiveDisplay, *, inline: bool) -> None:
    def show(engine: Engine) -> None:
        display.update(engine.ledger.trials, spec=engine.spec, state="running", wall_seconds=engine.wall())

    if inline:
        from orchestrator.runners import run_inline
        from orchestrator.worker import granted

        with granted(engine.spec.resources.gpu):
            run_inline(engine, on_event=show)
    else:
        from orchestrator.runners import RayGone, run_ray

        try:
            known = {"meansweep": engine.spec.name, "meansweep-id": engine.ledger.id}
            run_ray(engine, on_event=show, metadata=known)
        except RayGone as error:
            again = f"nothing is lost. Go on with: meansweep resume {engine.spec.name}"
            raise SweepFailed(f"{error}; {again}") from error


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
