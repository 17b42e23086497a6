"""What other sweeps of the same home know already: equal configurations, and observations of similar ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.engine.environment_check import drift_of, environment, recorded
from orchestrator.engine.identity import identity
from orchestrator.ledger import Carry, Ledger, LedgerError, Point, WarmStart
from orchestrator.paths import Home, SweepPaths
from orchestrator.trials import TrialState

if TYPE_CHECKING:
    from orchestrator.spec import SweepSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """A configuration that was trained to its end in another sweep."""

    origin: str
    """`sweep/trial`."""
    points: Mapping[int, Point]
    """Its reports by step."""

    def carry(self) -> Carry:
        """Return its reports as a new trial starts with them, at no cost."""
        return Carry(points={step: replace(point, order=0, seconds=0.0) for step, point in self.points.items()})


def known_configurations(home: Home, spec: SweepSpec, here: Mapping[str, Any] | None = None) -> dict[str, Known]:
    """Return, by configuration hash, what other sweeps of this home finished with the same code, data and metrics.

    Args:
        home: where to look.
        spec: the sweep that asks.
        here: its environment, by default that of this machine; only results of the same code and data count.
    """
    here = environment(spec) if here is None else here
    found: dict[str, Known] = {}
    for paths in home.all_sweeps():
        if paths.name == spec.name:
            continue
        ledger = _open(paths)
        if ledger is None:
            continue
        theirs = recorded(ledger)
        differs = drift_of(ledger, {"packages": here.get("packages")})
        if any(theirs.get(key) is None or theirs.get(key) != here.get(key) for key in ("code", "data")):
            continue
        if differs:
            log.info("nothing of %s is reused: %s", paths.name, "; ".join(differs))
            continue
        for history in ledger.histories():
            # What was reused there counts where it was trained: only there it is known with which code.
            unfit = {"drift", "lineage", "reused"} & history.labels.keys()
            sound = history.state is TrialState.FINISHED and not unfit
            last = history.points[history.last_step].metrics if history.points else {}
            if sound and all(math.isfinite(last.get(metric.name, math.nan)) for metric in spec.metrics):
                found.setdefault(identity(ledger, history), Known(f"{paths.name}/{history.id}", history.points))
    return found


def warm_observations(home: Home, spec: SweepSpec) -> list[WarmStart]:
    """Return the finished trials of the sweeps that `warm_start` names, where they fit this sweep's space.

    Raises:
        ConfigError: a named sweep does not exist.
    """
    problems, found = [], []
    names = [paths.name for paths in home.all_sweeps()]
    for name in spec.warm_start:
        ledger = _open(home.sweep(name)) if name in names else None
        if ledger is None:
            rule = "is not a readable sweep here"
            problems.append(Problem(key="warm_start", value=name, rule=rule, nearest=nearest(name, names)))
            continue
        found += [
            WarmStart(values=values, metrics=metrics, origin=f"{name}/{trial}")
            for trial, values, metrics in _finished(ledger, spec)
            if not spec.space.problems(values)
        ]
    if problems:
        raise ConfigError(problems)
    return found


def _finished(ledger: Ledger, spec: SweepSpec) -> Sequence[tuple[str, dict[str, Any], dict[str, float]]]:
    """Return (trial, values, metrics) of what finished; a swept key that was fixed there has its fixed value."""
    names = [metric.name for metric in spec.metrics]
    found = []
    for record in ledger.trials():
        last = record.reports.get(record.steps, {})
        if record.state is TrialState.FINISHED and not record.replicate and all(name in last for name in names):
            config = ledger.spec(record.revision).config_for(record.values, seed=record.seed)
            values = {key: value for key in spec.space.names if (value := _get(config, key)) is not None}
            existing = {key: value for key, value in values.items() if key in _present(spec, values)}
            metrics = {name: float(last[name]) for name in names}
            if len(names) == 1:  # judged as this sweep judges its own
                curve = {step: float(report[names[0]]) for step, report in record.reports.items() if names[0] in report}
                metrics[names[0]] = spec.metric.scores(curve)[record.steps]
            found.append((record.id, existing, metrics))
    return found


def _present(spec: SweepSpec, values: Mapping[str, Any]) -> set[str]:
    """The swept keys that exist beside these values."""
    extra = [line.split(" ", 1)[0] for line in spec.space.problems(values) if "does not exist here" in line]
    return set(values) - set(extra)


def _get(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _open(paths: SweepPaths) -> Ledger | None:
    try:
        return Ledger.open(paths)
    except LedgerError as error:
        log.warning("skipping %s: %s", paths.name, error)
        return None
