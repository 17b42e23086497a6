"""Where a sweep stands: counts, the best so far, what it has spent, and how long it will still take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import count, duration, hours, number, plus_minus, short_names, size
from orchestrator.planning import expected_reaching
from orchestrator.results.leaderboard_rows import order
from orchestrator.trials import TrialRecord, TrialState, group_by_config

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.spec import SweepSpec

Status = dict[str, Any]
"""What `status --json` prints."""


def status(
    spec: SweepSpec,
    trials: Sequence[TrialRecord],
    *,
    state: str = "unknown",
    wall_seconds: float | None = None,
    concurrency: int | None = None,
) -> Status:
    """Return the state of a sweep as plain data: `status --json`.

    Args:
        spec: the sweep.
        trials: every trial of its ledger, replicates too.
        state: the state of the sweep itself, as its ledger gives it.
        wall_seconds: for how long drivers have run it so far.
        concurrency: how many trials run at once; by default as many as run now.
    """
    counts = {name.value: 0 for name in TrialState}
    for trial in trials:
        counts[trial.state.value] += 1
    total = expected_trials(spec)
    left = None if total is None else max(total - len(trials), 0)
    if state not in ("new", "running", "paused", "interrupted", "unknown"):
        left, total = 0, len(trials)  # it is over: what has not been tried will not be
    used = {
        "gpu_hours": sum(trial.gpu_seconds for trial in trials) / 3600,
        "wall_clock": wall_seconds,
        "trials": len(trials),
    }
    return {
        "sweep": spec.name,
        "state": state,
        "trials": {**counts, "left": left, "total": total},
        "best": best_so_far(spec, trials),
        "budget": {name: {"used": used[name], "limit": getattr(spec.budget, name)} for name in used},
        "wasted_seconds": sum(trial.wasted_seconds for trial in trials),
        "eta_seconds": time_left(spec, trials, left=left, wall_seconds=wall_seconds, concurrency=concurrency),
    }


def best_so_far(spec: SweepSpec, trials: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Return the first row of the leaderboard in short, None without a result."""
    ordered, _ = order(group_by_config(trials), {metric.name: metric.goal for metric in spec.metrics})
    interval = ordered[0].interval() if ordered else None
    if interval is None:
        return None
    record = ordered[0].searched
    return {
        "trial": record.id,
        "state": record.state.value,
        "metric": record.metric,
        "mean": interval.mean,
        "ci95": [interval.low, interval.high] if interval.n > 1 else None,
        "n": interval.n,
        "steps": record.steps,
        "config": dict(record.values),
        "checkpoint": record.checkpoint,
    }


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
        wall_seconds: time spent, for a sweep with a limit of it.
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
    table.add_row(found["sweep"], found["state"])
    table.add_row("trials", counts_text(found["trials"]))
    table.add_row("best", best_text(found["best"]))
    if found["best"]:
        config = found["best"]["config"]
        short = short_names(config)
        table.add_row("", ", ".join(f"{short[name]} {number(value, 3)}" for name, value in config.items()))
    table.add_row("spent", spent_text(found))
    if found["eta_seconds"]:
        table.add_row("time left", f"about {duration(found['eta_seconds'])}")
    if found.get("disk"):
        table.add_row("disk", disk_text(found["disk"]))
    return table


def disk_text(disk: Mapping[str, int]) -> str:
    """Return `1.3 GiB in 24 checkpoints, 73 GiB free in the sweep's folder`."""
    return f"{size(disk['bytes'])} in {count(disk['checkpoints'], 'checkpoint')}, {size(disk['free'])} free"


def counts_text(counts: Mapping[str, int | None]) -> str:
    """Return `12 of 33 ended (8 finished, 4 pruned), 2 running`."""
    ended = {name: counts[name] for name in ("finished", "pruned", "failed") if counts[name]}
    total = counts["total"]
    head = f"{sum(n or 0 for n in ended.values())}{'' if total is None else f' of {total}'} ended"
    inside = ", ".join(f"{n} {name}" for name, n in ended.items())
    rest = [f"{counts[name]} {name}" for name in ("running", "at-rung", "paused", "waiting") if counts[name]]
    return ", ".join([f"{head} ({inside})" if inside else head, *rest])


def best_text(best: Mapping[str, Any] | None) -> str:
    """Return `2.43 ± 0.11 (trial 22)`."""
    if best is None:
        return "no result yet"
    ci = best["ci95"]
    text = plus_minus(best["mean"], None if ci is None else (ci[1] - ci[0]) / 2)
    seeds = f", {count(best['n'], 'seed')}" if best["n"] > 1 else ""
    early = "" if best["state"] == "finished" else f", {best['state']} at step {best['steps']}"
    return f"{text} (trial {best['trial']}{seeds}{early})"


def spent_text(found: Status) -> str:
    """Return what was spent of what is allowed, and what was wasted."""
    budget = found["budget"]
    parts = []
    for name, used, limit in ((name, entry["used"], entry["limit"]) for name, entry in budget.items()):
        if used is None or not (used or limit is not None):
            continue
        if name == "gpu_hours":
            text = f"{hours(used)} of GPU"
        else:
            text = f"{duration(used)} of wall clock" if name == "wall_clock" else count(used, "trial")
        bound = duration(limit) if name == "wall_clock" else number(limit)
        parts.append(text if limit is None else f"{text} (limit {bound})")
    if found["wasted_seconds"]:
        parts.append(f"{duration(found['wasted_seconds'])} of work lost to failures")
    return ", ".join(parts) or "nothing"
