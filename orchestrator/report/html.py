"""One HTML file with everything about a sweep. It opens without a server or network: charts, pictures and all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from orchestrator.formatting import count
from orchestrator.report import sections_results as results
from orchestrator.report import sections_run as running
from orchestrator.report import sections_sweep as whole
from orchestrator.report.charts import View
from orchestrator.report.parts import Facts, FinalTraining
from orchestrator.results import Row, importance, leaderboard
from orchestrator.trials import TrialRecord, TrialState

if TYPE_CHECKING:
    from orchestrator.paths import SweepPaths
    from orchestrator.spec import SweepSpec

PICTURES = 3
"""Sample grids shown of the best configurations, and of the worst."""


def write_report(
    spec: SweepSpec,
    trials: Sequence[TrialRecord],
    *,
    out: Path,
    plan: Mapping[str, Any] | None = None,
    images: Mapping[str, Path] | None = None,
    environment: Mapping[str, Any] | None = None,
    run_ids: Mapping[str, str] | None = None,
    state: str | None = None,
    wall_seconds: float | None = None,
    finals: Sequence[FinalTraining] = (),
    now: float | None = None,
) -> Path:
    """Write the report of a sweep and return its file.

    Args:
        spec: the sweep.
        trials: every trial of its ledger.
        out: the file; its folder is made if missing.
        plan: `Plan.to_dict()` of before the sweep, to be compared with what it took.
        images: sample grid (PNG) by trial id, of `find_images`.
        environment: what the sweep ran on.
        run_ids: MLflow run by trial id.
        state: the state of the sweep.
        wall_seconds: for how long drivers have run it.
        finals: the final trainings of its trials.
        now: unix seconds that are printed as the date; None: the present.
    """
    rows = leaderboard(spec, trials, run_ids)
    facts = Facts(
        spec=spec,
        trials=trials,
        rows=rows,
        view=View(spec, [row.group for row in rows], importance(spec, trials)),
        plan=plan,
        images=images or {},
        environment=environment or {},
        state=state,
        wall_seconds=wall_seconds,
        finals=finals,
    )
    return write_page(
        out,
        title=f"{spec.title or spec.name}: report of the sweep",
        name=spec.title or spec.name,
        meta=_meta(facts),
        description=spec.description,
        parts=list(_sections(facts)),
        now=time.time() if now is None else now,
    )


def find_images(paths: SweepPaths, rows: Sequence[Row], most: int = PICTURES) -> dict[str, Path]:
    """Return trial id -> the last sample grid, of the best and the worst configurations that have one.

    The worst are taken from those that finished, as long as there are enough: a picture of a tenth of the training
    says little about a configuration. An unstable one is shown by its first bad seed that has a picture.

    Args:
        paths: the sweep's folder.
        rows: of `leaderboard`.
        most: how many of the best, and how many of the worst.
    """
    found: dict[str, Path] = {}
    for row in rows:
        if row.rank is None:
            continue
        runs = [*(seed.trial for seed in row.bad_seeds), row.trial]
        files = (sorted(paths.trial(run).images.glob("*.png")) for run in runs)
        if last := next((some[-1] for some in files if some), None):
            found[row.trial] = last
    names = list(found)
    best, rest = names[:most], names[most:]
    finished = [row.trial for row in rows if row.state is TrialState.FINISHED and row.trial in rest]
    early = [name for name in rest if name not in finished]
    worst = [*finished[-most:], *early[len(early) - max(most - len(finished), 0) :]]
    return {name: found[name] for name in [*best, *worst]}


def write_page(
    out: Path,
    *,
    title: str,
    name: str,
    meta: str,
    parts: Sequence[tuple[str, str, str]],
    now: float,
    description: str = "",
) -> Path:
    """Write a page of sections in one file, plotly.js and all, and return it. A page that is there stays until then.

    Args:
        out: the file; its folder is made if missing.
        title: of the window.
        name: the heading.
        meta: a line below it.
        parts: id, title and HTML of each section.
        now: unix seconds that are printed as the date.
        description: text below the heading.
    """
    from plotly.offline import get_plotlyjs

    files = resources.files("orchestrator.report")
    template = Template((files / "report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(title),
        name=escape(name),
        meta=escape(meta),
        description=f"<p>{escape(description)}</p>" if description else "",
        nav="".join(f'<a href="#{key}">{escape(label)}</a>' for key, label, _ in parts),
        sections="\n".join(
            f'<section id="{key}"><h2>{escape(label)}</h2>{body}</section>' for key, label, body in parts
        ),
        footer=escape(f"Written by meansweep, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(now))}."),
        plotly=get_plotlyjs(),
        parallel=(files / "parallel.js").read_text(encoding="utf-8"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.part")
    aside.write_text(page, encoding="utf-8")
    aside.replace(out)
    return out


def _meta(facts: Facts) -> str:
    spec, trials = facts.spec, facts.trials
    goals = " and ".join(metric.words for metric in spec.metrics)
    parts = [goals, f"method {spec.method.name}", count(len(trials), "trial")]
    if facts.state:
        parts.append(facts.state)
    began = min((trial.started for trial in trials if trial.started), default=None)
    if began is not None:
        ended = max((trial.ended for trial in trials if trial.ended), default=began)
        form = "%Y-%m-%d %H:%M"
        parts.append(f"{time.strftime(form, time.gmtime(began))} to {time.strftime(form, time.gmtime(ended))} UTC")
    return " · ".join(parts)


def _sections(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield (id, title, HTML) of each section, in order."""
    yield "summary", "Summary", results.summary_section(facts)
    yield "leaderboard", "Leaderboard", results.leaderboard_section(facts)
    yield "history", "History", whole.history_section(facts)
    yield "curves", "Learning curves", results.curves_section(facts)
    yield "parallel", "Parallel coordinates", results.parallel_section(facts)
    yield "importance", "Importance", results.importance_section(facts)
    yield "slices", "Slices", results.slices_section(facts)
    yield "contours", "Pairs of parameters", results.contours_section(facts)
    yield "samples", "Samples", results.samples_section(facts)
    yield "final", "Final training", whole.final_section(facts)
    yield "failures", "Failures", running.failures_section(facts)
    yield "cost", "Cost", running.cost_section(facts)
    yield "timeline", "Timeline", whole.timeline_section(facts)
    yield "environment", "Environment", running.environment_section(facts)
    yield "reproduce", "How to reproduce", running.reproduce_section(facts)
