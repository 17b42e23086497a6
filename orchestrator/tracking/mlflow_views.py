"""What MLflow's pages show of a sweep when a person opens them: texts, and ready-made views of the run table.

A view is an experiment tag in which MLflow's pages keep the state behind a shared link: order, columns, charts. A page
that does not know the format shows its own default, so nothing depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from orchestrator.formatting import plus_minus
from orchestrator.trials import LAST

if TYPE_CHECKING:
    from orchestrator.space import Parameter
    from orchestrator.spec import SweepSpec
    from orchestrator.trials import TrialRecord

PORT = 5000
"""Where `meansweep ui` serves MLflow's pages unless it is told another port."""
VIEW = "leaderboard"
"""Key of the ready-made view in a page's address."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""The tag of an experiment that holds the view."""
SCORE = "trial/score"
"""What a trial was judged by, where that is not its last report, which is what MLflow shows of a metric."""
TRIALS = "tags.`meansweep.kind` != 'sweep'"
"""MLflow's filter for a sweep's trials and its final trainings."""


def experiment_tags(spec: SweepSpec, *, log: bool = False, others: Sequence[str] = ()) -> dict[str, str]:
    """Return the tags of a sweep's experiment: its kind, its text, its main metric and the view of its trials.

    Args:
        spec: the sweep.
        log: whether the metric's axis is logarithmic.
        others: what else the trials report, each with a curve of its own.
    """
    return {
        "mlflow.experimentKind": "custom_model_development",  # the pages of training runs, not those of chat traces
        "mlflow.experiment.primaryMetric.name": ranking_metric(spec),
        "mlflow.experiment.primaryMetric.greaterIsBetter": str(spec.metric.goal == "maximize"),
        "mlflow.note.content": f"{description(spec)}\n",
        VIEW_TAG: json.dumps(_view(spec, log, others), separators=(",", ":")),
    }


def view_path(experiment_id: str, *, charts: bool = False) -> str:
    """Return the part of the address after the server's that opens the ready-made view of an experiment."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}{mode}"


def runs_path(experiment_id: str, run_ids: Sequence[str], metric: str, goal: str) -> str:
    """Return the part of the address after the server's that opens charts of these runs alone, the evaluation's first.

    MLflow's own page of a comparison opens on other metrics, and no address says which.
    """
    quoted = ", ".join(f"'{run}'" for run in run_ids)
    facets = {
        "searchFilter": f"attributes.run_id IN ({quoted})",
        "orderByKey": _column("metrics", metric),
        "orderByAsc": str(goal == "minimize").lower(),
        "compareRunsMode": "CHART",
        "workflowType": "machine_learning",
    }
    return f"/#/experiments/{experiment_id}/runs?{urlencode(facets, quote_via=quote)}"


def several_path(experiment_ids: Sequence[str]) -> str:
    """Return the part of the address after the server's that opens the runs of several experiments in one table."""
    ids = quote(json.dumps(list(experiment_ids), separators=(",", ":")))
    return f"/#/compare-experiments/s?experiments={ids}&workflowType=machine_learning&viewStateShareKey={VIEW}"


def _view(spec: SweepSpec, log: bool, others: Sequence[str]) -> dict[str, Any]:
    """Return the state of MLflow's page: the trials alone, best first, metric and searched parameters as columns."""
    metric, params = ranking_metric(spec), list(spec.space.names)
    always = [key for parameter in spec.space.parameters if not parameter.when for key in parameter.keys]
    columns = [_column("metrics", metric), _column("tags", "meansweep.rank"), _column("metrics", "trial/steps")]
    columns.insert(1, _column("attributes", "Experiment Name"))  # the sweep, where the runs of several are shown
    columns += [_column("tags", "meansweep.state"), *(_column("params", name) for name in params)]
    columns += [_column("params", "seed"), _column("attributes", "Duration")]
    parallels = [_parallel("meansweep-parallel", always, metric)]
    for number, (words, keys) in enumerate(_conditional(spec).items()):
        parallels.append(_parallel(f"meansweep-parallel-{number}", [*always, *keys], metric, words))
    steps = spec.set.get("trainer.steps", spec.base.get("trainer", {}).get("steps"))
    # as far as the trials go: a final training may be ten times as long
    span = {} if steps is None or "trainer.steps" in spec.space.names else {"xMin": 0, "xMax": steps}
    curve = _curve("meansweep-curves", "eval", spec.metric.name, span, log=log)
    others_curves = [_curve(f"meansweep-curves-{name}", "others", name, span) for name in others]
    pictures = {
        "type": "IMAGE",
        "uuid": "meansweep-samples",
        "metricSectionId": "meansweep-samples",
        "imageKeys": ["samples/grid"],
        "step": steps or 0,  # the slider's start
        "showRunParams": False,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": True,
    }
    return {
        "searchFilter": TRIALS,
        "orderByKey": _column("metrics", metric),
        "orderByAsc": spec.metric.goal == "minimize",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "columnOrder": columns,
        "columnWidths": {column: 36 + 7 * len(column.split("`")[1]) for column in columns[:-1]},
        "compareRunCharts": [curve, *parallels, pictures, *others_curves],
        "compareRunSections": [
            _section("eval", columns=2),
            _section("search", columns=1),
            _section("samples", columns=1),
            *([_section("others", columns=2)] if others else []),
            *map(_section, ("train", "trial")),
        ],
        "isAccordionReordered": True,
    }


def _curve(uuid: str, section: str, metric: str, span: Mapping[str, int], *, log: bool = False) -> dict[str, Any]:
    """Return the curves of a metric over the steps of `span`."""
    return {
        "type": "LINE",
        "uuid": uuid,
        "metricSectionId": f"meansweep-{section}",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "scaleType": "log" if log else "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "lineSmoothness": 0,
        "range": dict(span),
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
    }


def _parallel(uuid: str, params: Sequence[str], metric: str, name: str = "") -> dict[str, Any]:
    """Return parallel coordinates; MLflow leaves out the runs that lack one of the parameters."""
    return {
        "type": "PARALLEL",
        "uuid": uuid,
        "displayName": name,
        "metricSectionId": "meansweep-search",
        "selectedParams": list(params),
        "selectedMetrics": [metric],
        "runsCountToCompare": 100,
        "showAllRuns": True,
        "deleted": False,
        "isGenerated": False,
    }


def _conditional(spec: SweepSpec) -> dict[str, list[str]]:
    """Return the keys of the parameters that are not always there, by their condition in words."""
    found: dict[str, list[str]] = {}
    for parameter in spec.space.parameters:
        if parameter.when:
            found.setdefault(" and ".join(map(str, parameter.when)), []).extend(parameter.keys)
    return found


def ranking_metric(spec: SweepSpec) -> str:
    """Return the metric of a trial's run whose last value is what the trial is judged by."""
    return spec.metric.name if spec.metric.at == LAST else SCORE


def _section(name: str, *, columns: int = 3) -> dict[str, Any]:
    shape = {"columns": columns, "cardHeight": 420 if columns == 1 else 360}
    return {
        "uuid": f"meansweep-{name}",
        "name": name,
        "display": True,
        "isReordered": True,
        "isGenerated": False,
    } | shape


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def description(spec: SweepSpec, found: str = "") -> str:
    """Return what MLflow shows above a sweep's run, in Markdown.

    Args:
        spec: the sweep.
        found: what it has found so far.
    """
    metric = spec.metric
    goal = "lowest" if metric.goal == "minimize" else "highest"
    lines = [found, ""] if found else []  # first: the page folds everything after a few lines
    lines += [f"**{spec.title}**", ""] if spec.title not in ("", spec.name) else []
    lines += [spec.description.strip(), ""] if spec.description else []
    lines += [f"**Looking for** the {goal} `{metric.name}` with `{spec.method.name}`.", ""]
    lines += ["| searched | range |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in ranges(spec).items()]
    lines += ["", "```", f"meansweep leaderboard {spec.name}", f"meansweep report {spec.name} -o report.html"]
    lines += [f"meansweep best {spec.name} -o best.yaml", "meansweep train best.yaml", "```"]
    return "\n".join(lines)


def trial_description(sweep: str, record: TrialRecord) -> str:
    """Return what MLflow shows above a trial's run, in Markdown: the commands that go on from it."""
    searched = record.id.partition(".")[0]
    what = f"Seed {record.seed} of the configuration of trial {searched}." if record.replicate else ""
    commands = [
        f"meansweep rerun {sweep} {record.id} --inline",
        f"meansweep best {sweep} --trial {searched} -o best.yaml",
    ]
    return "\n".join([*([what, ""] if what else []), "```", *commands, "meansweep train best.yaml", "```"])


def ranges(spec: SweepSpec) -> dict[str, str]:
    """Return each searched parameter with its range in words."""
    return {parameter.name: _range(parameter) for parameter in spec.space.parameters}


def _range(parameter: Parameter) -> str:
    when = " and ".join(str(condition) for condition in parameter.when)
    return f"{parameter}{f', when {when}' if when else ''}".replace("|", "\\|")


def final_description(evidence: Mapping[str, Any], steps: int | None, length: float | None = None) -> str:
    """Return what MLflow shows above a final training, in Markdown.

    Args:
        evidence: for its configuration.
        steps: of the training; None: not known beforehand.
        length: of the average that was chosen after it.
    """
    of = "" if steps is None else f" of {steps} steps"
    average = "" if length is None else f" Its weights are the average of length {length:g}, chosen after the training."
    if not evidence:
        return f"A training{of}.{average}"
    mean, ends = evidence.get("mean", evidence.get("value")), evidence.get("ci95")
    seeds = f" over {len(evidence['seeds'])} seeds" if ends else ""
    reached = None if mean is None else plus_minus(float(mean), (ends[1] - ends[0]) / 2 if ends else None)
    score = "" if reached is None else f", where `{evidence.get('metric')}` was {reached}{seeds}"
    return f"The final training{of} with the configuration of trial {evidence.get('trial')} of the sweep " + (
        f"**{evidence.get('sweep')}**{score}.{average}"
    )
