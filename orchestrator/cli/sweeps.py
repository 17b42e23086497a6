"""Running a sweep and speaking to it: plan, run, resume, stop, status, logs, and changes to what there is."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meanflow_core.errors import ConfigError, Problem
from orchestrator.cli.common import (
    CommandFailed,
    HomeOption,
    JsonOption,
    SweepArgument,
    check_name,
    console,
    find_sweep,
    finish_sending,
    home_at,
    print_json,
    read_sweep,
    register_commands,
)
from orchestrator.cluster import HELP
from orchestrator.formatting import count, join

if TYPE_CHECKING:
    from orchestrator.engine import Engine, MakeTracker
    from orchestrator.ledger import Ledger
    from orchestrator.paths import Home
    from orchestrator.results import LiveDisplay
    from orchestrator.spec import SweepSpec

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A sweep file.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Replace keys of the file.", show_default=False)
]
InlineOption = Annotated[bool, typer.Option("--inline", help="In this process, without Ray: for debugging.")]
NameOption = Annotated[str | None, typer.Option(help="Another name than the file's.", show_default=False)]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse to go on in another environment.")]
TRIAL_ID = re.compile(r"[0-9]+(\.[0-9]+)?")
TrialArgument = Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, e.g. 7, or 7.2 for a replicate.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    register_commands(app, "Sweeps", plan, run, submit, resume, stop, pause, status, logs)
    register_commands(app, "Changes", extend, edit, retry, rerun)
    about = "Stop, pause or retry one trial of a sweep, also of a running one."
    trial = typer.Typer(help=about, epilog=HELP, no_args_is_help=True)
    trial.command("stop", epilog=HELP)(trial_stop)
    trial.command("pause", epilog=HELP)(trial_pause)
    trial.command("retry", epilog=HELP)(trial_retry)
    app.add_typer(trial, name="trial", rich_help_panel="Changes")


# ------------------------------------------------------------------------------------------------- running


def plan(
    file: FileArgument,
    overrides: OverridesArgument = None,
    json: JsonOption = False,
    probe: Annotated[bool, typer.Option("--probe", help="Measure the cheapest and the dearest configuration.")] = False,
    budget: Annotated[bool, typer.Option("--budget", help="Fail (exit 1) if it does not fit its budget.")] = False,
    home: HomeOption = None,
) -> None:
    """Say what a sweep will do and cost; starts nothing. Lists every mistake in its file."""
    from orchestrator.engine import environment, known_configurations
    from orchestrator.planning import (
        available_here,
        choose_probe_configs,
        demand_ready,
        make_plan,
        measure,
        missing_here,
        render_plan,
    )
    from orchestrator.spec import read_spec

    spec = read_spec(file, overrides or ())
    if probe:
        demand_ready(spec)
    measured = [measure(config, spec.trainer) for config in choose_probe_configs(spec)] if probe else []
    known = known_configurations(home_at(home), spec, environment(spec), without=spec.name)
    made = make_plan(
        spec, history=known, resources_available=available_here(), probe=measured, missing=missing_here(spec)
    )
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
    from orchestrator.planning import available_here, make_plan
    from orchestrator.spec import read_spec

    words = _words(overrides, name)
    spec = read_spec(file, words)
    share = _gpu_share(spec)
    if share:
        typer.echo(f"this machine has a GPU: resources.gpu is {share:g} a trial, since the file does not say")
        spec = read_spec(file, [*words, f"resources.gpu={share:g}"])
    place = home_at(home)
    for note in spec.notes:
        typer.echo(f"note: {note}")
    _demand_ready(spec, inline=inline)
    planned = make_plan(spec, resources_available=available_here()).to_dict()
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
    from orchestrator.cluster import ClusterError
    from orchestrator.cluster import submit as submit_sweep

    try:
        sweep = submit_sweep(file, address, _words(overrides, name), home=remote_home, follow=follow)
    except ClusterError as error:
        raise CommandFailed(str(error)) from error
    typer.echo(sweep)
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


def _demand_ready(spec: SweepSpec, *, inline: bool) -> None:
    """Refuse to start what cannot work here; of a cluster, the nodes may have what this machine lacks."""
    if inline or not os.environ.get("RAY_ADDRESS"):
        from orchestrator.planning import demand_ready

        demand_ready(spec)


def _words(overrides: list[str] | None, name: str | None) -> list[str]:
    """Return what replaces keys of a sweep's file, a name among them."""
    return [*(overrides or ()), *([f"name={check_name(name)}"] if name else [])]


def _gpu_share(spec: SweepSpec) -> float:
    """Return the share of a GPU for trials of a file that does not say: none without a GPU here, else a quarter."""
    from orchestrator.planning import available_here

    said = "gpu" in (spec.source["sweep"].get("resources") or {})
    return 0.0 if said or not available_here().get("gpu") else 0.25


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

        run_inline(engine, on_event=show)
    else:
        from orchestrator.runners import run_ray

        run_ray(engine, on_event=show)


def _conclude(ledger: Ledger) -> None:
    """Print the leaderboard, the best trial's picture, and what to type next."""
    from orchestrator.results import leaderboard, leaderboard_table
    from orchestrator.trials import BAD_REGION, TrialState

    spec, trials, state = ledger.spec(), ledger.trials(), ledger.state()
    rows = leaderboard(spec, trials)
    out = console()
    out.print(leaderboard_table(spec, rows, limit=12, width=out.width))
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
            f"failed: {ids}. `meansweep logs {broken[0]} {spec.name}` shows why; once it is mended, "
            f"`meansweep retry --failed {spec.name}` and `meansweep resume {spec.name}` run them again"
        )
    best = next((row for row in rows if row["rank"] is not None), None)
    if best is not None:
        pictures = sorted(ledger.paths.trial(best["trial"]).images.glob("*.png"))
        if pictures:
            typer.echo(f"samples of the best trial ({best['trial']}): {pictures[-1]}")
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


# ---------------------------------------------------------------------------------------------- looking


def status(sweep: SweepArgument = None, json: JsonOption = False, home: HomeOption = None) -> None:
    """Say where a sweep stands. Trials by state, the best so far, time left, what it has cost."""
    from orchestrator.results import status as find
    from orchestrator.results import status_table, summarize
    from orchestrator.worker import disk_use

    paths, ledger, spec, trials = read_sweep(home, sweep)
    summary = summarize(ledger)
    found = find(spec, trials, state=summary["state"], wall_seconds=summary["budget"]["wall_clock"]["used"])
    found |= {"reason": summary["reason"], "waste": summary["waste"], "revision": summary["revision"]}
    found["disk"] = disk_use(paths)
    if json:
        print_json(found)
    else:
        console().print(status_table(found))


def logs(
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="A trial's id; without one, the driver's log.")
    ] = None,
    sweep: SweepArgument = None,
    named: Annotated[str | None, typer.Option("--sweep", hidden=True)] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what is added.")] = False,
    tail: Annotated[int, typer.Option("-n", help="Last lines to begin with; 0 for all.")] = 50,
    home: HomeOption = None,
) -> None:
    """Print the log of a trial or of the driver. Of a trial: what its workers printed, over all its runs."""
    sweep = sweep or named
    if trial is not None and sweep is None and not TRIAL_ID.fullmatch(trial):
        trial, sweep = None, trial  # `meansweep logs SWEEP`
    paths = find_sweep(home_at(home), sweep)
    if trial is not None and not TRIAL_ID.fullmatch(trial):
        raise ConfigError(
            [Problem(key="TRIAL", value=trial, rule="must be a trial's id, e.g. 7, or 7.2 for a replicate")]
        )
    file = paths.driver_log if trial is None else paths.trial(trial).log
    if not file.exists():
        known = sorted((p.parent.name for p in paths.trials.glob("*/log.txt")), key=float)
        rule = f"has no log yet; trials with one: {', '.join(known) or 'none'}"
        raise ConfigError([Problem(key="TRIAL", value=trial or "driver", rule=rule)])
    with file.open(encoding="utf-8", errors="replace") as stream:
        lines = stream.readlines()
        typer.echo("".join(lines[-tail:] if tail else lines), nl=False)
        while follow:
            text = stream.read()
            if text:
                typer.echo(text, nl=False)
            else:
                time.sleep(0.3)


# --------------------------------------------------------------------------------------------- changing


def stop(sweep: SweepArgument = None, home: HomeOption = None) -> None:
    """End a running sweep. What runs stops at its next report; `resume` can go on with it."""
    _request(home, sweep, "stop")


def pause(sweep: SweepArgument = None, home: HomeOption = None) -> None:
    """Pause a running sweep. Its workers are freed, its driver waits for `resume`."""
    _request(home, sweep, "pause")


def extend(
    more: Annotated[str, typer.Argument(metavar="N", help="How many trials more: 8 or +8.")],
    sweep: SweepArgument = None,
    home: HomeOption = None,
) -> None:
    """Let a sweep run more trials than it was to. Also a finished one: then `resume` runs them."""
    more, sweep = _trial_and_sweep(more.removeprefix("+"), sweep and sweep.removeprefix("+"))  # in either order too
    if not more.isdecimal() or int(more) < 1:
        raise ConfigError([Problem(key="N", value=more, rule="must be a number of trials, 1 or more")])
    _request(home, sweep, "extend", int(more))


def edit(
    file: FileArgument,
    sweep: SweepArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    home: HomeOption = None,
) -> None:
    """Replace a sweep's file. Shows the differences, and refuses what would falsify the trials there are."""
    from orchestrator.engine import control, edits
    from orchestrator.ledger import Ledger
    from orchestrator.spec import read_spec

    spec = read_spec(file)
    paths = find_sweep(home_at(home), sweep or spec.name)
    command = control.edit(spec)
    revised = edits.revised(Ledger.open(paths), command)
    for line in [*revised.changes, *revised.notes]:
        typer.echo(f"  {line}")
    if not revised.changes:
        typer.echo("nothing would change")
    elif not dry_run:
        said = control.request(paths, command)
        typer.echo(said.replace(f": {revised.said}", ""))  # that stands above


def retry(
    sweep: SweepArgument = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every failed trial.")] = False,
    home: HomeOption = None,
) -> None:
    """Take up failed trials again. One alone: `trial retry ID`. Without a running driver, `resume` runs them."""
    if not failed:
        raise ConfigError([Problem(key="retry", rule="say --failed, or `meansweep trial retry ID` for a single one")])
    _request(home, sweep, "retry_failed")


def trial_stop(trial: TrialArgument, sweep: SweepArgument = None, home: HomeOption = None) -> None:
    """End one trial for good."""
    trial, sweep = _trial_and_sweep(trial, sweep)
    _request(home, sweep, "stop_trial", trial)


def trial_pause(trial: TrialArgument, sweep: SweepArgument = None, home: HomeOption = None) -> None:
    """Have one trial free its worker at its next report and wait until it is retried."""
    trial, sweep = _trial_and_sweep(trial, sweep)
    _request(home, sweep, "pause_trial", trial)


def trial_retry(trial: TrialArgument, sweep: SweepArgument = None, home: HomeOption = None) -> None:
    """Take up a trial that failed, was stopped or is paused."""
    trial, sweep = _trial_and_sweep(trial, sweep)
    _request(home, sweep, "retry_trial", trial)


def _trial_and_sweep(trial: str, sweep: str | None) -> tuple[str, str | None]:
    """Take the two in either order: `7 digits` and `digits 7`."""
    turned = sweep is not None and TRIAL_ID.fullmatch(sweep) and not TRIAL_ID.fullmatch(trial)
    return (str(sweep), trial) if turned else (trial, sweep)


def rerun(
    trial: TrialArgument,
    sweep: SweepArgument = None,
    inline: InlineOption = False,
    home: HomeOption = None,
) -> None:
    """Run one trial's configuration again, by itself. From its beginning, with its output here; records nothing."""
    from orchestrator.trials import Assignment
    from orchestrator.worker import classify, run_trial

    trial, sweep = _trial_and_sweep(trial, sweep)
    paths, ledger, _, trials = read_sweep(home, sweep)
    record = next((record for record in trials if record.id == trial), None)
    if record is None:
        from meanflow_core.errors import nearest

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
        for report in run_trial(assignment):
            before = record.reports.get(report.step, {}).get(spec.metric.name)
            was = "" if before is None else f" (was {before:.6g})"
            typer.echo(f"step {report.step}: {spec.metric.name} {report.metrics[spec.metric.name]:.6g}{was}")
    except Exception as error:
        if inline:
            raise  # here the debugger, or the plain traceback, is what is wanted
        outcome = classify(error)
        raise CommandFailed(f"{outcome.kind}: {outcome.reason}\n{outcome.traceback or ''}") from error


def _request(home: Path | None, sweep: str | None, command: str, *arguments: Any) -> None:
    from orchestrator.engine import control
    from orchestrator.ledger import LedgerError

    make: Mapping[str, Any] = vars(control)
    try:
        typer.echo(control.request(find_sweep(home_at(home), sweep), make[command](*arguments)))
    except LedgerError as error:
        raise CommandFailed(str(error)) from error
