"""The sections of the report about the running of the sweep: failures, cost, environment, how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from meanflow_core.config import write_yaml
from orchestrator.formatting import count, duration, number
from orchestrator.planning import against_actual
from orchestrator.report.parts import Facts, colour_keys, html_table, nothing
from orchestrator.trials import Failure, TrialRecord, TrialState

KINDS = {
    "diverged": "The loss or a metric became NaN or infinite: a result of the configuration.",
    "oom": "Out of memory: the configuration does not fit where it ran.",
    "lost": "The worker or its node was lost.",
    "infrastructure": "Storage, network or start-up failed.",
    "bug": "The code raised an error.",
}


# ----------------------------------------------------------------------------------------------- failures


def failures_section(facts: Facts) -> str:
    """Return the failed trials by class, each with its reason, its log and how to run it again alone."""
    failed = [(trial, trial.failure) for trial in facts.trials if trial.failure is not None]
    recovered = [
        (trial, failure) for trial in facts.trials if trial.state is not TrialState.FAILED for failure in trial.attempts
    ]
    if not failed and not recovered:
        return nothing("No trial failed.")
    parts = []
    for kind in sorted({failure.kind for _, failure in failed}, key=list(KINDS).index):
        some = [(trial, failure) for trial, failure in failed if failure.kind == kind]
        title = f"{kind}: {count(len(some), 'trial')}"
        parts.append(f'<h3>{escape(title)}</h3><p class="caption">{escape(KINDS[kind])}</p>{_failures(facts, some)}')
    if recovered:
        parts.append(f"<h3>Failures that a retry fixed: {len(recovered)}</h3>{_failures(facts, recovered)}")
    return "".join(parts)


def _failures(facts: Facts, some: Sequence[tuple[TrialRecord, Failure]]) -> str:
    body = []
    for trial, failure in some:
        reason = escape(failure.reason)
        if failure.traceback:
            reason += f"<details><summary>traceback</summary><pre>{escape(failure.traceback)}</pre></details>"
        again = f"<code>meansweep rerun {escape(facts.spec.name)} {escape(trial.id)} --inline</code>"
        log = f"<code>{escape(failure.log)}</code>" if failure.log else "-"
        body.append(("", [escape(trial.id), str(failure.step or trial.steps), reason, again, log]))
    return html_table(["trial", "step", "reason", "run it alone", "log"], body, {0, 1}, wrap={2})


# --------------------------------------------------------------------------------------------------- cost


def cost_section(facts: Facts) -> str:
    """Return what the sweep took, against what was planned."""
    trials = facts.trials
    if not trials:
        return nothing("Nothing has been spent.")
    bar = _spent_bar(trials)
    actual = {
        "trials": float(sum(trial.replicate == 0 for trial in trials)),
        "trainings": float(sum(trial.busy_seconds > 0 for trial in trials)),
        "steps": float(sum(trial.steps for trial in trials if not trial.labels.get("reused"))),
        "work_seconds": sum(trial.busy_seconds for trial in trials),
        "gpu_hours": sum(trial.gpu_seconds for trial in trials) / 3600,
    }
    if facts.wall_seconds is not None:
        actual["wall_seconds"] = facts.wall_seconds
    planned = {row["what"]: row for row in against_actual(facts.plan, actual)} if facts.plan else {}
    words = {
        "trials": "configurations",
        "trainings": "trainings, replicates included",
        "steps": "optimiser steps",
        "work_seconds": "time of workers",
        "wall_seconds": "wall clock",
        "gpu_hours": "GPU-hours",
    }
    body = []
    for what, amount in actual.items():
        if what == "gpu_hours" and not amount and what not in planned:
            continue
        show = duration if what.endswith("seconds") else number if what == "gpu_hours" else _whole
        row = planned.get(what)
        plan = [escape(show(row["planned"])), f"{row['ratio']:.0%}"] if row else ["-", "-"]
        body.append(("", [escape(words[what]), *plan, escape(show(amount))]))
    body = [(kind, [name, plan, used, ratio]) for kind, (name, plan, ratio, used) in body]
    note = "" if facts.plan else '<p class="caption">No plan was recorded when this sweep started.</p>'
    budget = facts.spec.budget
    limits = [
        f"{name} {text(value)}"
        for name, value, text in (
            ("GPU-hours", budget.gpu_hours, number),
            ("wall clock", budget.wall_clock, duration),
            ("trials", budget.trials, number),
        )
        if value is not None
    ]
    limit = f'<p class="caption">Budget: {escape(", ".join(limits))}.</p>' if limits else ""
    amounts = html_table(["", "planned", "actual", "of plan"], body, {1, 2, 3}, wrap={0})
    return f"{bar}{amounts}{note}{limit}"


def _spent_bar(trials: Sequence[TrialRecord]) -> str:
    wasted = sum(trial.wasted_seconds for trial in trials)

    def useful(belongs: Iterable[TrialRecord]) -> float:
        return sum(max(trial.busy_seconds - trial.wasted_seconds, 0.0) for trial in belongs)

    shares = [
        (
            "var(--good)",
            "finished trials",
            useful(t for t in trials if t.state is TrialState.FINISHED and not t.replicate),
        ),
        ("var(--finished)", "replicates", useful(t for t in trials if t.state is TrialState.FINISHED and t.replicate)),
        ("var(--pruned)", "stopped early", useful(t for t in trials if t.state is TrialState.PRUNED)),
        ("var(--failed)", "failed", useful(t for t in trials if t.state is TrialState.FAILED)),
        ("var(--muted)", "lost and repeated work", wasted),
        ("var(--bad)", "not ended", useful(t for t in trials if not t.state.ended)),
    ]
    total = sum(seconds for _, _, seconds in shares)
    if not total:
        return ""
    shares = [share for share in shares if share[2] > 0]
    bars = "".join(f'<i style="width:{100 * s / total:.2f}%;background:{colour}"></i>' for colour, _, s in shares)
    return f'<div class="bar">{bars}</div>' + colour_keys(
        [(colour, f"{name}: {duration(s)} ({s / total:.0%})") for colour, name, s in shares]
    )


# ------------------------------------------------------------------------------- environment, reproduction


def environment_section(facts: Facts) -> str:
    """Return what the sweep ran on, and which trials ran on something else."""
    facts_there = [
        (key, value if isinstance(value, str | int | float) else json.dumps(value, default=str))
        for key, value in facts.environment.items()
        if value is not None
    ]
    body = [("", [escape(str(key)), f"<code>{escape(str(value))}</code>"]) for key, value in facts_there]
    found = html_table(["", ""], body, (), wrap={1}) if body else nothing("The environment was not recorded.")
    drifted = [trial for trial in facts.trials if trial.labels.get("drift")]
    by_words: dict[str, list[str]] = {}
    for trial in drifted:
        by_words.setdefault(_words(trial.labels["drift"]), []).append(trial.id)
    lines = "".join(
        f"<li>{escape(words)}: trial{'s' if len(ids) > 1 else ''} {escape(', '.join(ids))}</li>"
        for words, ids in by_words.items()
    )
    return found + (f"<h3>Trials that ran in another environment</h3><ul>{lines}</ul>" if lines else "")


def reproduce_section(facts: Facts) -> str:
    """Return the commands that repeat the sweep, its best trial and its final training."""
    name = facts.spec.name
    file = facts.spec.file or f"{name}.yaml"
    commands = ["# the sweep again", f"meansweep run {file}"]
    parts = []
    if facts.ranked:
        best = facts.ranked[0]
        record = next(trial for trial in facts.trials if trial.id == best.trial)
        commands += ["# the best trial alone, in one process", f"meansweep rerun {name} {best.trial} --inline"]
        commands += ["# its complete configuration, with this evidence", f"meansweep best {name} -o best.yaml"]
        commands += ["# the final training", "meansweep train best.yaml"]
        seeds = ", ".join(str(seed) for seed in best.seeds)
        about = f"Trial {best.trial}, configuration {record.config_hash}, seeds {seeds}"
        where = f", checkpoint {best.checkpoint}" if best.checkpoint else ""
        run = f", MLflow run {best.run_id}" if best.run_id else ""
        parts.append(f'<p class="caption">{escape(about + where + run)}.</p>')
        parts.append(f"<h3>Values of the best configuration</h3><pre>{escape(write_yaml(best.config))}</pre>")
    source = facts.spec.source.get("sweep", {})
    parts.append(
        f"<details><summary>the whole sweep file</summary><pre>{escape(write_yaml(source))}</pre></details>"
        f"<details><summary>its base configuration</summary><pre>{escape(write_yaml(facts.spec.base))}</pre></details>"
    )
    shown = "\n".join(commands)
    return f"<pre>{escape(shown)}</pre>{''.join(parts)}"


# ------------------------------------------------------------------------------------------------ helpers


def _whole(amount: float) -> str:
    return f"{round(amount):,}"


def _words(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
