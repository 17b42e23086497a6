"""Commands on a sweep from another shell: left for its driver if there is one, carried out on the ledger if not.

`request` is the door for people's commands. `apply` is what changes the ledger: the driver calls it for commands that
it finds, and `request` calls it where no driver runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.engine import edits, mailbox
from orchestrator.ledger import CHANGED, Carry, Ledger, TrialHistory
from orchestrator.paths import SweepPaths
from orchestrator.trials import BAD_REGION, TrialState

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

COMMANDS = (
    *("stop", "pause", "resume", "extend", "edit", "retry-failed"),
    *("trial-stop", "trial-pause", "trial-retry"),
)
CONTINUING = ("extend", "edit", "retry-failed", "trial-retry")
"""Those after which a sweep that has ended has something to do again."""
_ASKED = {
    "stop": "to end the sweep: what runs stops at its next report",
    "pause": "to pause: what runs frees its worker at its next report",
    "resume": "to go on",
    "extend": "for {trials} more trials",
    "edit": "to go by the new file",
    "retry-failed": "to take up the failed trials again",
    "trial-stop": "to stop trial {trial}",
    "trial-pause": "to pause trial {trial} at its next report",
    "trial-retry": "to take up trial {trial} again",
}


def request(paths: SweepPaths, command: Mapping[str, Any]) -> str:
    """Carry out a command, or leave it for the driver. Use the functions below to make one.

    Returns:
        What happened, in words.

    Raises:
        ConfigError: the command cannot be carried out; nothing has changed.
        LedgerError: there is no such sweep.
    """
    from orchestrator.ledger import SweepBusy

    try:
        ledger = Ledger.open(paths, write=True)
    except SweepBusy as busy:
        check(Ledger.open(paths), command, driven=True)
        mailbox.post(paths, command)
        return f"asked the driver (process {busy.pid} on {busy.host}) {_ASKED[command['command']].format(**command)}"
    with ledger:
        check(ledger, command)
        if command["command"] not in CONTINUING:
            return apply(ledger, command)
        before, state = (ledger.revision, ledger.trials()), ledger.state()
        # Before the change: who is killed between the two must not leave a sweep that has more to do as finished.
        ledger.set_state("stopped", CHANGED)
        said = apply(ledger, command)
        if (ledger.revision, ledger.trials()) == before:
            ledger.set_state(state.state, state.reason, traceback=state.traceback)
            return said
        return f"{said}; `meansweep resume {paths.name}` runs what is to be run"


def stop() -> dict[str, Any]:
    """End the sweep: what runs stops at its next report and can go on after a `resume`."""
    return {"command": "stop"}


def pause() -> dict[str, Any]:
    """Have the driver free its workers and wait for `resume`."""
    return {"command": "pause"}


def resume() -> dict[str, Any]:
    """Have a paused driver go on."""
    return {"command": "resume"}


def stop_trial(trial: str) -> dict[str, Any]:
    """End one trial for good."""
    return {"command": "trial-stop", "trial": trial}


def pause_trial(trial: str) -> dict[str, Any]:
    """Have one trial free its worker until it is retried."""
    return {"command": "trial-pause", "trial": trial}


def retry_trial(trial: str, afresh: bool = False) -> dict[str, Any]:
    """Take up a trial that failed, was stopped or is paused; afresh: from its beginning, and also a finished one."""
    return {"command": "trial-retry", "trial": trial, **({"afresh": True} if afresh else {})}


def retry_failed() -> dict[str, Any]:
    """Take up every trial that failed, except those that diverged or ran out of memory."""
    return {"command": "retry-failed"}


def extend(trials: int) -> dict[str, Any]:
    """Let the sweep run more trials than it was to."""
    return {"command": "extend", "trials": trials}


def edit(spec: SweepSpec) -> dict[str, Any]:
    """Replace the sweep file."""
    return {"command": "edit", "source": spec.source}


def check(ledger: Ledger, command: Mapping[str, Any], *, driven: bool = False) -> None:
    """Raise what keeps a command from being carried out.

    Args:
        ledger: the sweep's.
        command: what is asked.
        driven: whether a driver runs.

    Raises:
        ConfigError: saying what.
    """
    kind, trial = command["command"], command.get("trial")
    if kind not in COMMANDS:
        raise _wrong("command", "is none", kind, nearest(str(kind), COMMANDS))
    if trial is not None:
        known = {record.id: record for record in ledger.trials()}
        if trial not in known:
            raise _wrong("trial", "there is no such trial", trial, nearest(trial, list(known)))
        state = known[trial].state
        if kind in ("trial-stop", "trial-pause") and state.ended:
            raise _wrong("trial", f"has ended already: {state.value}", trial)
        afresh = bool(command.get("afresh"))
        if kind == "trial-retry" and state is TrialState.FINISHED and not afresh:
            rule = "has finished; only failed, stopped and paused trials can be retried, or any with --afresh"
            raise _wrong("trial", rule, trial)
        if afresh and ledger.spec().method.population:
            raise _wrong("trial", "is of a population, whose members are trained together", trial)
        if afresh and not state.ended:
            raise _wrong("trial", "has not ended; `meansweep trial stop` ends it", trial)
        if kind == "trial-retry" and state is TrialState.RUNNING and driven:
            raise _wrong("trial", "is running", trial)
    elif kind in ("extend", "edit"):
        edits.revised(ledger, command)
    elif kind in ("stop", "pause") and not driven and ledger.state().state in ("finished", "failed"):
        raise _wrong("SWEEP", f"has ended already: {ledger.state().state}", ledger.spec().name)


def apply(ledger: Ledger, command: Mapping[str, Any]) -> str:
    """Carry out a command on a ledger that is open for writing, where no runner holds the trials concerned.

    Returns:
        What happened, in words.

    Raises:
        ConfigError: it cannot be carried out.
    """
    match command["command"]:
        case "stop":
            ledger.set_state("stopped", "stopped by hand")
            return f"stopped; `meansweep resume {ledger.paths.name}` goes on with it"
        case "trial-stop":
            ledger.end_run(command["trial"], TrialState.PRUNED, "stopped by hand", wall=ledger.wall_seconds)
            return f"trial {command['trial']} is stopped"
        case "trial-pause":
            ledger.end_run(command["trial"], TrialState.PAUSED, "paused by hand", wall=ledger.wall_seconds)
            return f"trial {command['trial']} is paused"
        case "trial-retry":
            return restart(ledger, ledger.history(command["trial"]), afresh=bool(command.get("afresh")))
        case "retry-failed":
            failed = [trial for trial in ledger.trials() if trial.state is TrialState.FAILED]
            again = [trial.id for trial in failed if trial.failure is None or trial.failure.kind not in BAD_REGION]
            done = [restart(ledger, ledger.history(trial)) for trial in again]
            kept = len(failed) - len(again)
            return "; ".join(done or ["nothing to retry"]) + (
                f" ({kept} diverged or out of memory: `trial retry ID` retries one of them)" if kept else ""
            )
        case "extend" | "edit":
            revised = edits.revised(ledger, command)
            spec, changes, notes = revised
            asked = command.get("id")
            if not changes or (asked and any(asked == revision.command for revision in ledger.revisions())):
                return "; ".join(["nothing has changed", *notes])
            number = ledger.add_revision(spec, changes, moves_space=edits.moves_space(changes), command=asked)
            return f"revision {number}: {revised.said}"
        case _:
            return f"no driver is running; `meansweep resume {ledger.paths.name}` starts one"


def restart(ledger: Ledger, history: TrialHistory, *, protect: bool = True, afresh: bool = False) -> str:
    """Have a trial that ended or is paused go on when the driver comes to it.

    A diverged or out-of-memory one starts from its beginning, the others go on from their last checkpoints.

    Args:
        ledger: the sweep's ledger, open for writing.
        history: the trial.
        protect: a trial that was stopped early, or waits at a rung, is not judged again.
        afresh: from its beginning, whatever ended it.
    """
    if not history.state.ended:
        if history.state is TrialState.AT_RUNG and protect:
            ledger.label(history.id, "protected", True)
        if history.state in (TrialState.AT_RUNG, TrialState.PAUSED):
            ledger.end_run(history.id, TrialState.WAITING, "taken up again", wall=ledger.wall_seconds)
        return f"trial {history.id} goes on"
    failure = history.end.failure if history.end else None
    afresh = afresh or (failure is not None and failure.kind in BAD_REGION)
    dropped = {"drift", "reused"} if afresh else set()
    labels = {key: value for key, value in history.labels.items() if key not in dropped}
    if history.state is TrialState.PRUNED and protect:
        labels["protected"] = True
    carry = Carry(
        points={} if afresh else history.points,
        busy=history.busy,
        gpu=history.gpu,
        wasted=history.busy if afresh else history.wasted,
        attempts=tuple(history.attempts),
        run=history.run,
    )
    new = replace(history.birth, labels=labels, carry=carry, waiting=True)
    ledger.add_trial(new, params={}, wall=ledger.wall_seconds)
    return f"trial {history.id} starts again" if afresh else f"trial {history.id} goes on"


def _wrong(key: str, rule: str, value: Any, close: str | None = None) -> ConfigError:
    return ConfigError([Problem(key=key, rule=rule, value=value, nearest=close)])
