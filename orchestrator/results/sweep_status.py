"""Where a sweep stands: counts, the best so far, what it has spent and wasted, and how long it will still take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import count, duration, hours, number, plus_minus, short_names, size
from orchestrator.ledger import CHANGED
from orchestrator.planning import expected_reaching
from orchestrator.results.leaderboard_rows import Row, order, unranked
from orchestrator.results.rung_audit import RungAudit, audit_rungs, audit_warnings
from orchestrator.trials import TrialRecord, TrialState, group_by_config

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.ledger import Ledger
    from orchestrator.spec import SweepSpec

BEST = ("trial", "state", "metric", "mean", "ci95", "n", "steps", "config", "checkpoint")
"""What the status shows of the leaderboard's first row."""


@dataclass(frozen=True)
class Spent:
    """What was used of one thing that may be limited."""

    used: float | None
    limit: float | None


@dataclass(frozen=True)
class Waste:
    """Work without a result."""

    lost_seconds: float
    """Work that failures undid."""
    failed_seconds: float
    """The other work of trials that failed."""
    gpu_hours: float
    """Both, times their shares of GPUs."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a sweep stands."""

    sweep: str
    state: str
    counts: dict[str, int]
    """Trials by state."""
    left: int | None
    """Trials that do not exist yet; None: nothing limits them."""
    total: int | None
    """Trials that the whole sweep will have, replicates included."""
    best: Row | None
    budget: dict[str, Spent]
    """`gpu_hours`, `wall_clock` (seconds), `trials`."""
    rungs: tuple[RungAudit, ...]
    """How well each rung predicts the end, where enough trials have finished."""
    warnings: tuple[str, ...]
    """What should be changed about the sweep."""
    wasted_seconds: float
    eta_seconds: float | None
    reason: str | None = None
    """Why the sweep is in its state; this and the following are known from its ledger only."""
    waste: Waste | None = None
    revision: int | None = None
    owner: Mapping[str, str] | None = None
    """Who started it, and where: `{user, host}`."""
    disk: Mapping[str, int] | None = None
    """See `orchestrator.worker.disk_use`."""

    def to_json(self) -> dict[str, Any]:
        """Return what `status --json` prints."""
        known: dict[str, Any] = {
            "reason": self.reason,
            "waste": self.waste and asdict(self.waste),
            "revision": self.revision,
            "owner": self.owner,
            "disk": self.disk,
        }
        best = self.best.to_json() if self.best else None
        return {
            "sweep": self.sweep,
            "state": self.state,
            "trials": {**self.counts, "left": self.left, "total": self.total},
            "best": best and {key: best[key] for key in BEST},
            "budget": {name: asdict(spent) for name, spent in self.budget.items()},
            "rungs": [audit.to_json() for audit in self.rungs],
            "warnings": list(self.warnings),
            "wasted_seconds": self.wasted_seconds,
            "eta_seconds": self.eta_seconds,
            **{
                key: value
                for key, value in {**known, "owner": self.owner, "disk": self.disk}.items()
                if value is not None
            },
        }


def status(
    spec: SweepSpec,
    trials: Sequence[TrialRecord],
    *,
    state: str = "unknown",
    wall_seconds: float | None = None,
    concurrency: int | None = None,
    deleted: int = 0,
) -> Status:
    """Return where a sweep stands, as far as its trials tell.

    Args:
        spec: the sweep.
        trials: every trial of its ledger, replicates too.
        state: the state of the sweep itself, as its ledger gives it.
        wall_seconds: for how long drivers have run it so far.
        concurrency: how many trials run at once; by default as many as run now.
        deleted: trials that are in `trials` no more; none comes in their places.
    """
    expected = expected_trials(spec)
    total = None if expected is None else expected - deleted
    left = None if total is None else max(total - len(trials), 0)
    if state not in ("new", "running", "paused", "interrupted", "unknown"):
        left, total = 0, len(trials)  # it is over: what has not been tried will not be
    gpu_hours = sum(trial.gpu_seconds for trial in trials) / 3600
    return Status(
        sweep=spec.name,
        state=state,
        counts={each.value: sum(trial.state is each for trial in trials) for each in TrialState},
        left=left,
        total=total,
        best=best_so_far(spec, trials),
        budget={
            "gpu_hours": Spent(gpu_hours, spec.budget.gpu_hours),
            "wall_clock": Spent(wall_seconds, spec.budget.wall_clock),
            "trials": Spent(len(trials), spec.budget.trials),
        },
        rungs=tuple(audit_rungs(spec, trials)),
        warnings=tuple(audit_warnings(spec, trials)),
        wasted_seconds=sum(trial.wasted_seconds for trial in trials),
        eta_seconds=time_left(spec, trials, left=left, wall_seconds=wall_seconds, concurrency=concurrency),
    )


def status_of(ledger: Ledger, *, wall: float | None = None) -> Status:
    """Return where a sweep stands, out of its ledger. One that says "running" but has no driver was interrupted.

    Args:
        ledger: the sweep's ledger.
        wall: the sweep's clock, if a running driver knows it better than the record.
    """
    state = ledger.state()
    died = state.state in ("running", "paused") and not ledger.driven
    trials = standing(ledger)
    found = status(
        ledger.spec(),
        trials,
        state="interrupted" if died or state.reason == CHANGED else state.state,
        wall_seconds=ledger.wall_seconds if wall is None else wall,
        deleted=sum(history.deleted for history in ledger.births()),
    )
    found = found if died else replace(found, state=state.state)
    return replace(
        found, reason=state.reason, waste=_waste(trials), revision=ledger.revision, owner=ledger.owner or None
    )


def standing(ledger: Ledger) -> list[TrialRecord]:
    """Return the trials as they stand: what a dead driver left running waits for a resume."""
    trials = ledger.trials()
    if ledger.driven:
        return trials
    return [replace(t, state=TrialState.WAITING) if t.state is TrialState.RUNNING else t for t in trials]


def _waste(trials: Sequence[TrialRecord]) -> Waste:
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    gpu_share = {trial.id: trial.gpu_seconds / trial.busy_seconds for trial in trials if trial.busy_seconds}
    gpu_seconds = sum(
        gpu_share.get(t.id, 0.0) * (t.busy_seconds if t.state is TrialState.FAILED else t.wasted_seconds)
        for t in trials
    )
    return Waste(
        lost_seconds=sum(trial.wasted_seconds for trial in trials),
        failed_seconds=sum(trial.busy_seconds - trial.wasted_seconds for trial in failed),
        gpu_hours=gpu_seconds / 3600,
    )


def best_so_far(spec: SweepSpec, trials: Sequence[TrialRecord]) -> Row | None:
    """Return the first configuration of the leaderboard, None without a result."""
    metric = spec.metric
    ordered, _ = order(group_by_config(trials), {each.name: each.goal for each in spec.metrics})
    best = unranked(ordered[0], metric.name, metric.goal) if ordered else None
    return best if best is not None and best.interval is not None else None


def expected_trials(spec: SweepSpec) -> int | None:
    """Return how many trials the whole sweep will have, replicates included; None where nothing limits them."""
    limits = [spec.run_cap] if spec.run_cap is not None else []
    if spec.method.exhaustive:
        limits.append(spec.space.grid_size())
    if not limits:
        return spec.budget.trials
    more = spec.replicates.top * spec.replicates.seeds if spec.replicates else 0
    expected = min(limits) + more
    return expected if spec.budget.trials is None else min(expected, spec.budget.trials)


def steps_of(spec: SweepSpec, values: Mapping[str, Any]) -> int | None:
    """Return the full length of a trial in steps, None where the configuration does not say."""
    if spec.program is not None:
        return spec.program.steps
    for place in (values, spec.set):
        if "trainer.steps" in place:
            return int(place["trainer.steps"])
    steps = (spec.base.get("trainer") or {}).get("steps")
    return None if steps is None else int(steps)


def time_left(
    spec: SweepSpec,
    trials: Sequence[TrialRecord],
    *,
    left: int | None,
    wall_seconds: float | None = None,
    concurrency: int | None = None,
) -> float | None:
    """Return the seconds until the sweep ends, from the mean cost of the trials that ended; None without one.

    Args:
        spec: the sweep.
        trials: every trial so far.
        left: trials that do not exist yet.
        wall_seconds: time that drivers have spent so far, work and all else.
        concurrency: how many trials run at once; by default as many as run now.
    """
    open_trials = [trial for trial in trials if not trial.state.ended]
    if left is None:
        return None
    if spec.early_terminate.promotes and (left or open_trials):
        work = _work_of_promotion(spec, trials, left)
    else:
        through = (TrialState.FINISHED, TrialState.PRUNED)
        costs = [trial.busy_seconds for trial in trials if trial.state in through and trial.busy_seconds]
        mean = sum(costs) / len(costs) if costs else None
        work = None if mean is None else left * mean + sum(max(mean - trial.busy_seconds, 0.0) for trial in open_trials)
    if work is None:
        return None
    running = sum(trial.state is TrialState.RUNNING for trial in open_trials)
    seconds = work / max(concurrency or running, 1)
    busy = sum(trial.busy_seconds for trial in trials)
    if wall_seconds and busy:  # starting workers, loading data, waiting: what has come on top of the work so far
        seconds = max(seconds, work * wall_seconds / busy)
    if wall_seconds is not None and spec.budget.wall_clock is not None:
        seconds = min(seconds, max(spec.budget.wall_clock - wall_seconds, 0.0))
    return seconds


def _work_of_promotion(spec: SweepSpec, trials: Sequence[TrialRecord], left: int) -> float | None:
    """Seconds of work to come where trials wait at rungs: so many are expected to get so far, at the pace so far."""
    done = sum(trial.steps for trial in trials)
    if not done:
        return None
    more = spec.replicates.top * spec.replicates.seeds if spec.replicates else 0
    reaching = expected_reaching(spec, max(left + len(trials) - more, 1), spec.config_for({}))
    starts = [0, *(step for step, _ in reaching)]
    expected = sum(count * (step - start) for start, (step, count) in zip(starts, reaching, strict=False))
    pace = sum(trial.busy_seconds for trial in trials) / done
    return max(expected + more * reaching[-1][0] - done, 0.0) * pace


def status_table(found: Status) -> Table:
    """Return the status for a terminal."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row(found.sweep, found.state)
    if found.owner:
        table.add_row("owner", f"{found.owner.get('user') or '?'} on {found.owner.get('host') or '?'}")
    table.add_row("trials", counts_text(found))
    table.add_row("best", best_text(found.best))
    if found.best:
        config = found.best.config
        short = short_names(config)
        table.add_row("", ", ".join(f"{short[name]} {number(value, 3)}" for name, value in config.items()))
    table.add_row("spent", spent_text(found))
    for audit in found.rungs:
        table.add_row("rung", str(audit))
    for text in found.warnings:
        table.add_row("warning", text, style="yellow")
    if found.eta_seconds:
        table.add_row("time left", f"about {duration(found.eta_seconds)}")
    if found.disk:
        table.add_row("disk", disk_text(found.disk))
    return table


def disk_text(disk: Mapping[str, int]) -> str:
    """Return `1.3 GiB in 24 checkpoints, 73 GiB free in the sweep's folder`."""
    return f"{size(disk['bytes'])} in {count(disk['checkpoints'], 'checkpoint')}, {size(disk['free'])} free"


def counts_text(found: Status) -> str:
    """Return `12 of 33 ended (8 finished, 4 pruned), 2 running`."""
    counts, total = found.counts, found.total
    ended = {name: counts[name] for name in ("finished", "pruned", "failed") if counts[name]}
    head = f"{sum(ended.values())}{'' if total is None else f' of {total}'} ended"
    inside = ", ".join(f"{n} {name}" for name, n in ended.items())
    rest = [f"{counts[name]} {name}" for name in ("running", "at-rung", "paused", "waiting") if counts[name]]
    return ", ".join([f"{head} ({inside})" if inside else head, *rest])


def best_text(best: Row | None) -> str:
    """Return `2.43 ± 0.11 (trial 22)`."""
    if best is None or best.interval is None:
        return "no result yet"
    text = plus_minus(best.mean, best.interval.half_width)
    seeds = f", {count(best.n, 'seed')}" if best.n > 1 else ""
    early = "" if best.state is TrialState.FINISHED else f", {best.state.value} at step {best.steps}"
    return f"{text} (trial {best.trial}{seeds}{early})"


def spent_text(found: Status) -> str:
    """Return what was spent of what is allowed, and what was wasted."""
    parts = []
    for name, spent in found.budget.items():
        used, limit = spent.used, spent.limit
        if used is None or not (used or limit is not None):
            continue
        if name == "gpu_hours":
            text = f"{hours(used)} of GPU"
        else:
            text = f"{duration(used)} of wall clock" if name == "wall_clock" else count(int(used), "trial")
        bound = duration(limit) if name == "wall_clock" else number(limit)
        parts.append(text if limit is None else f"{text} (limit {bound})")
    if found.wasted_seconds:
        parts.append(f"{duration(found.wasted_seconds)} of work lost to failures")
    return ", ".join(parts) or "nothing"
