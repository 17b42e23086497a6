"""Starting a sweep and going on with one: plan, run, submit, resume; and one of its trials by itself: rerun."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.cli.common import (
    CommandFailed,
    FileArgument,
    HomeOption,
    JsonOption,
    SweepArgument,
    TrialArgument,
    check_name,
    console,
    find_sweep,
    finish_sending,
    home_at,
    print_json,
    read_sweep,
    trial_and_sweep,
)
from orchestrator.cli.granting import with_grant
from orchestrator.formatting import count, join

if TYPE_CHECKING:
    from orchestrator.engine import Engine, MakeTracker
    from orchestrator.ledger import Ledger
    from orchestrator.paths import Home
    from orchestrator.results import LiveDisplay
    from orchestrator.spec import SweepSpec

OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Replace keys of the file.", show_default=False)
]
InlineOption = Annotated[bool, typer.Option("--inline", help="In this process, without Ray: for debugging.")]
NameOption = Annotated[str | None, typer.Option(help="Another name than the file's.", show_default=False)]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse to go on in another environment.")]


def plan(
    file: FileArgument,
    overrides: OverridesArgument = None,
    json: JsonOption = False,
    probe: Annotated[bool, typer.Option("--probe", help="Measure the cheapest and the dearest configuration.")] = False,
    budget: Annotated[bool, typer.Option("--budget", help="Fail (exit 1) if it does not fit its budget.")] = False,
    home: HomeOption = None,
) -> None:
    """Say what a sweep will do and cost; starts nothing. Lists every mistake in its file."""
    from orchestrator.engine import known_configurations
    from orchestrator.planning import (
        choose_probe_configs,
        demand_ready,
        make_plan,
        measure,
        missing_here,
        render_plan,
    )
    from orchestrator.spec import read_spec
    from orchestrator.worker import granted

    # Of this machine, also where $RAY_ADDRESS names a cluster: nothing is connected to.
    spec, there = with_grant(read_spec(file, overrides or ()), file, overrides or (), on_cluster=False)
    if probe:
        demand_ready(spec)
    with granted(spec.resources.gpu):
        measured = [measure(config, spec.trainer) for config in choose_probe_configs(spec)] if probe else []
    known = known_configurations(home_at(home), spec)
    made = make_plan(spec, history=known, resources_available=there, probe=measured, missing=missing_here(spec))
    if json:
        print_json(made.to_dict())
    else:
        typer.echo(render_plan(made))
    if budget and made.over_budget:
        raise CommandFailed("it does not fit: " + "; ".join(made.over_budget))


def run(
    file: FileArgument,
    overrides: OverridesArgument = None,
    name: NameOption = None,
    inline: InlineOption = False,
    home: HomeOption = None,
) -> None:
    """Run a sweep to its end. On this machine, or on the cluster that $RAY_ADDRESS names."""
    from orchestrator.engine import start_sweep
    from orchestrator.ledger import SweepBusy
    from orchestrator.planning import make_plan
    from orchestrator.spec import read_spec

    words = _words(overrides, name)
    spec = read_spec(file, words)
    place = home_at(home)
    _demand_ready(spec, inline=inline)
    spec, there = with_grant(spec, file, words, on_cluster=bool(os.environ.get("RAY_ADDRESS")) and not inline)
    for note in spec.notes:
        typer.echo(f"note: {note}")
    planned = make_plan(spec, resources_available=there).to_dict()
    try:
        engine = start_sweep(place, spec, tracker=_tracker(place), plan=planned)
    except SweepBusy as busy:
        raise CommandFailed(str(busy)) from busy
    _drive(engine, inline=inline)


def submit(
    file: FileArgument,
    address: Annotated[str, typer.Option(help="The cluster's job server, e.g. http://127.0.0.1:8265.")],
    overrides: OverridesArgument = None,
    name: NameOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and print what the driver prints.")] = False,
    remote_home: Annotated[
        str | None, typer.Option(help="Folder of all state, on storage that all nodes share.", show_default=False)
    ] = None,
) -> None:
    """Send a sweep to a Ray cluster; returns its name at once.

    `status`, `logs`, `stop`, `resume`, `leaderboard`, `best` and others take `--address` too.
    """
    from orchestrator.cluster import DEFAULT_HOME, ClusterError
    from orchestrator.cluster import submit as submit_sweep
    from orchestrator.credentials import left_behind

    try:
        sweep = submit_sweep(file, address, _words(overrides, name), home=remote_home, follow=follow)
    except ClusterError as error:
        raise CommandFailed(str(error)) from error
    typer.echo(sweep)
    for line in left_behind(remote_home or DEFAULT_HOME):
        typer.echo(f"note: {line}", err=True)
    typer.echo(f"next: meansweep status {sweep} --address {address}", err=True)


def resume(
    sweep: SweepArgument = None,
    inline: InlineOption = False,
    strict: StrictOption = False,
    home: HomeOption = None,
) -> None:
    """Go on with an interrupted, stopped or extended sweep. Interrupted trials first, from their checkpoints."""
    from orchestrator.engine import control, resume_sweep
    from orchestrator.ledger import Ledger, LedgerError, SweepBusy

    place = home_at(home)
    paths = find_sweep(place, sweep)
    _, ledger, spec, trials = read_sweep(home, paths.name)
    state = ledger.state()
    if state.state == "finished" and all(trial.state.ended for trial in trials):
        reason = f" ({state.reason})" if state.reason else ""
        typer.echo(f"{paths.name} has finished{reason}; `meansweep extend N {paths.name}` lets it run more trials")
        return
    _demand_ready(spec, inline=inline)
    try:
        engine = resume_sweep(place, paths.name, strict=strict, tracker=_tracker(place))
    except SweepBusy as busy:
        if Ledger.open(paths).state().state != "paused":
            raise CommandFailed(str(busy)) from busy
        typer.echo(control.request(paths, control.resume()))  # its driver is alive and waits
        return
    except (LedgerError, ConfigError) as error:
        raise CommandFailed(str(error)) from error
    for line in engine.drift:
        typer.echo(f"note: {line}; trials that run from now on are labelled", err=True)
    _drive(engine, inline=inline)


def rerun(
    trial: TrialArgument,
    sweep: SweepArgument = None,
    inline: InlineOption = False,
    home: HomeOption = None,
) -> None:
    """Run one trial's configuration again, by itself. From its beginning, with its output here; records nothing."""
    from orchestrator.trials import Assignment
    from orchestrator.worker import classify, granted, run_trial

    trial, sweep = trial_and_sweep(trial, sweep)
    paths, ledger, _, trials = read_sweep(home, sweep)
    record = next((record for record in trials if record.id == trial), None)
    if record is None:
        close = nearest(trial, [each.id for each in trials])
        raise ConfigError([Problem(key="TRIAL", value=trial, rule="no such trial", nearest=close)])
    spec = ledger.spec(record.revision)
    config = spec.config_for(dict(record.values), seed=record.seed)
    folder = paths.root / "reruns" / trial
    assignment = Assignment(
        trial=trial, sweep=spec.name, config=config, trainer=spec.trainer, steps=spec.report_steps(config),
        folder=str(folder), metric=spec.metric.name, goal=spec.metric.goal,
    )  # fmt: skip
    typer.echo(f"trial {trial} of {spec.name} again, in {folder}; was: {record.state.value}")
    try:
        with granted(spec.resources.gpu):
            for report in run_trial(assignment):
                before = record.reports.get(report.step, {}).get(spec.metric.name)
                was = "" if before is None else f" (was {before:.6g})"
                typer.echo(f"step {report.step}: {spec.metric.name} {report.metrics[spec.metric.name]:.6g}{was}")
    except Exception as error:
        if inline:
            raise  # here the debugger, or the plain traceback, is what is wanted
        outcome = classify(error)
        raise CommandFailed(f"{outcome.kind}: {outcome.reason}\n{outcome.traceback or ''}") from error


# ------------------------------------------------------------------------------------------------- driving


def _demand_ready(spec: SweepSpec, *, inline: bool) -> None:
    """Refuse to start what cannot work here; of a cluster, the nodes may have what this machine lacks."""
    from orchestrator.planning import demand_ready, demand_storage

    if inline or not os.environ.get("RAY_ADDRESS"):
        demand_ready(spec)
    else:
        demand_storage()


def _words(overrides: list[str] | None, name: str | None) -> list[str]:
    """Return what replaces keys of a sweep's file, a name among them."""
    return [*(overrides or ()), *([f"name={check_name(name)}"] if name else [])]


def _tracker(home: Home) -> MakeTracker:
    from orchestrator.tracking import MlflowTracker, Store

    return lambda paths: MlflowTracker(paths.outbox, Store.of(home))


def _drive(engine: Engine, *, inline: bool) -> None:
    """Run a sweep to its end with its table, and print what came of it. Closes its tracker and its ledger."""
    from orchestrator.cluster import DRIVING
    from orchestrator.results import LiveDisplay

    spec, tracker = engine.spec, engine.tracker
    with engine.ledger as ledger:
        if not inline:
            _tell_of_neighbours(ledger)
        if not sys.stdout.isatty():  # a terminal has the table
            ended = sum(trial.state.ended for trial in ledger.trials())
            done = f"; {count(ended, 'trial')} of it ended before" if ended else ""
            typer.echo(f"{DRIVING} {spec.name} in {ledger.paths.root}{done}")
        try:
            with LiveDisplay(spec, console(), log=ledger.paths.driver_log, before=ledger.trials()) as display:
                _run(engine, display, inline=inline)
        except KeyboardInterrupt:  # while the runner was still starting
            ledger.set_state("interrupted", "interrupted by Ctrl-C")
        finally:
            if tracker is not None:
                finish_sending(tracker.close, spec.name)
                if tracker.refused:
                    listed = f"`meansweep sync {spec.name} --check` says which and why"
                    typer.echo(f"MLflow has refused {tracker.refused} events; {listed}", err=True)
        if ledger.state().state == "interrupted":
            typer.echo(f"\ninterrupted; nothing is lost. Go on with: meansweep resume {spec.name}", err=True)
            raise KeyboardInterrupt
        _conclude(ledger)


def _tell_of_neighbours(ledger: Ledger) -> None:
    """Say which sweeps each take this machine for their own; one Ray for all of them would share it out."""
    from orchestrator.engine import neighbours

    others = [] if os.environ.get("RAY_ADDRESS") else neighbours(ledger.paths)
    if others:
        typer.echo(
            f"note: {join(others)} {'runs' if len(others) == 1 else 'run'} on this machine too, and each sweep counts "
            "all its cores and GPUs as its own; `max_concurrent=N` limits the trials of one, and a Ray for all of them "
            "(`ray start --head`, then RAY_ADDRESS=auto) shares the machine out",
            err=True,
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
            run_ray(engine, on_event=show)
        except RayGone as error:
            again = f"nothing is lost. Go on with: meansweep resume {engine.spec.name}"
            raise CommandFailed(f"{error}; {again}") from error


def _conclude(ledger: Ledger) -> None:
    """Print the leaderboard, the best trial's picture, and what to type next."""
    from orchestrator.results import audit_lines, leaderboard, leaderboard_table
    from orchestrator.trials import BAD_REGION, TrialState

    spec, trials, state = ledger.spec(), ledger.trials(), ledger.state()
    rows = leaderboard(spec, trials)
    out = console()
    out.print(leaderboard_table(spec, rows, limit=12, width=out.width, footer=audit_lines(spec, trials)))
    typer.echo(f"{spec.name}: {state.state}" + (f" ({state.reason})" if state.reason else ""))
    if state.traceback:
        typer.echo(state.traceback, err=True)
    if state.state == "stopped":
        typer.echo(f"go on with: meansweep resume {spec.name}")
    paused = [trial.id for trial in trials if trial.state is TrialState.PAUSED]
    if paused:
        again = f"`meansweep trial retry {paused[0]} {spec.name}` and `meansweep resume {spec.name}` let it go on"
        typer.echo(f"still paused: {', '.join(paused)}; {again}")
    broken = [trial.id for trial in trials if trial.failure is not None and trial.failure.kind not in BAD_REGION]
    if broken:
        ids = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        typer.echo(
            f"failed: {ids}. `meansweep logs {broken[0]} {spec.name}` shows why; once it is fixed, "
            f"`meansweep retry --failed {spec.name}` and `meansweep resume {spec.name}` run them again"
        )
    best = next((row for row in rows if row.rank is not None), None)
    if best is not None:
        pictures = sorted(ledger.paths.trial(best.trial).images.glob("*.png"))
        if pictures:
            typer.echo(f"samples of the best trial ({best.trial}): {pictures[-1]}")
        typer.echo(
            "next:\n"
            "  meansweep ui                               # the runs in MLflow\n"
            f"  meansweep best {spec.name} -o best.yaml"
            + (
                " && meansweep train best.yaml\n  meansweep sample best.yaml -n 100 --nfe 1,2 -o samples.png"
                if spec.builtin_trainer
                else "          # its configuration, for your own training"
            )
        )
    if state.state == "failed":
        raise CommandFailed(f"the sweep failed: {state.reason}")
