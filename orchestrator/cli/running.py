"""Starting a sweep and going on with one: plan, run, submit, resume; and one of its trials by itself: rerun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.api import begin, checked_id, demand_same, drive, find_sweep, go_on, home_at, with_grant
from orchestrator.cli.common import (
    CommandFailed,
    FileArgument,
    HomeOption,
    JsonOption,
    SweepArgument,
    TrialArgument,
    check_name,
    console,
    print_json,
    read_sweep,
    trial_and_sweep,
)
from orchestrator.formatting import count

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger

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
    budget: Annotated[bool, typer.Option("--budget", hidden=True)] = False,
    home: HomeOption = None,
) -> None:
    """Say what a sweep will train, do and cost; starts nothing. Lists every mistake in its file.

    Exit code 1 where it does not fit its budget or this machine, or where something it needs is missing here.
    """
    from orchestrator.engine import known_configurations
    from orchestrator.planning import (
        choose_probe_configs,
        demand_ready,
        look_here,
        make_plan,
        measure,
        render_plan,
    )
    from orchestrator.results import seen_spread
    from orchestrator.spec import read_spec
    from orchestrator.worker import granted

    # Of this machine, also where $RAY_ADDRESS names a cluster: nothing is connected to.
    spec, there = with_grant(read_spec(file, overrides or ()), file, overrides or (), on_cluster=False)
    if probe:
        demand_ready(spec)
        if spec.program is not None:
            rule = "measures a trainer's steps, and cannot look into an own program; time a run of it by hand"
            raise ConfigError([Problem(key="--probe", rule=rule)])
    with granted(spec.resources.gpu):
        measured = [measure(config, spec.trainer) for config in choose_probe_configs(spec)] if probe else []
    known, here = known_configurations(home_at(home), spec), look_here(spec)
    made = make_plan(
        spec, history=known, resources_available=there, probe=measured, missing=here.missing,
        of_data=here.notes, spread=seen_spread(home_at(home), spec.metric.name), thorough=True,
    )  # fmt: skip
    if json:
        print_json(made.to_dict())
    else:
        typer.echo(render_plan(made))
    if made.over_budget:
        raise CommandFailed("it does not fit: " + "; ".join(made.over_budget))
    if made.missing:
        raise CommandFailed(f"{count(len(made.missing), 'thing')} missing here")


def run(
    file: FileArgument,
    overrides: OverridesArgument = None,
    name: NameOption = None,
    inline: InlineOption = False,
    again: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep of this name, if the file is still its own.")
    ] = False,
    given: Annotated[str | None, typer.Option("--id", hidden=True)] = None,
    home: HomeOption = None,
) -> None:
    """Run a sweep to its end. On this machine, or on the cluster that $RAY_ADDRESS names."""
    from orchestrator.spec import read_spec

    words, place = _words(overrides, name), home_at(home)
    if again:
        spec = read_spec(file, words)
        if place.sweep(spec.name).journal.is_file():
            demand_same(place, file, words, spec)
            return resume(spec.name, inline, home=home)
    engine = begin(place, file, words, inline=inline, sweep_id=checked_id(given))
    drive(engine, inline=inline, console=console(), then=_conclude)


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
    place = home_at(home)
    engine = go_on(place, find_sweep(place, sweep), strict=strict, inline=inline)
    if isinstance(engine, str):
        typer.echo(engine)
    else:
        drive(engine, inline=inline, console=console(), then=_conclude)


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
        program=None if spec.program is None else spec.program.to_dict(),
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


def _words(overrides: list[str] | None, name: str | None) -> list[str]:
    """Return what replaces keys of a sweep's file, a name among them."""
    return [*(overrides or ()), *([f"name={check_name(name)}"] if name else [])]


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
                else " && meansweep train best.yaml"
                if spec.program is not None
                else "          # its configuration, for your own training"
            )
        )
    if state.state == "failed":
        raise CommandFailed(f"the sweep failed: {state.reason}")
