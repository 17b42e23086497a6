"""From the best trial of a sweep to the training configuration of the final run, with the evidence for the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_core.config import TrainConfig, load_config, read_yaml, with_values
from meanflow_core.errors import ConfigError, Problem, nearest
from orchestrator.spec import flat, put
from orchestrator.trials import LAST

if TYPE_CHECKING:
    from orchestrator.results.leaderboard_rows import Row
    from orchestrator.spec import SweepSpec
    from orchestrator.trials import TrialRecord

# What `set:` may shorten for the trials alone. Everything else in it is part of what was tested, and stays.
LENGTHS = ("trainer.steps", "trainer.eval_every", "trainer.log_every", "trainer.checkpoint_every")


def winning_config(
    spec: SweepSpec,
    trials: Sequence[TrialRecord],
    rows: Sequence[Row],
    *,
    trial: str | None = None,
    environment: Mapping[str, Any] | None = None,
    sweep_id: str = "",
) -> TrainConfig:
    """Return the complete training configuration of a trial, at the length of the sweep's base config.

    Of the MeanFlow trainer; see `winning_mapping` for any other.

    Args:
        spec: the sweep.
        trials: every trial of the ledger.
        rows: the leaderboard, best first.
        trial: the trial to take; None takes the best.
        environment: what the sweep ran on, for the evidence.
        sweep_id: the sweep's, for the evidence.

    Raises:
        ConfigError: nothing finished yet, or there is no such trial.
    """
    record, evidence = _chosen(spec, trials, rows, trial, environment, sweep_id)
    config = load_config(spec.config_for(dict(record.values), seed=record.seed))
    base = spec.base_config.to_dict()["trainer"]
    lengths = {key: base[key.partition(".")[2]] for key in LENGTHS if key in spec.set}
    return with_values(config, {**lengths, "evidence": evidence})


def winning_mapping(
    spec: SweepSpec,
    trials: Sequence[TrialRecord],
    rows: Sequence[Row],
    *,
    trial: str | None = None,
    environment: Mapping[str, Any] | None = None,
    sweep_id: str = "",
) -> dict[str, Any]:
    """Return the same for a trainer of the user's own: what the trainer got, with `evidence` beside it.

    A length that only the sweep's `set` has is kept: the base has none.
    """
    record, evidence = _chosen(spec, trials, rows, trial, environment, sweep_id)
    config = spec.config_for(dict(record.values), seed=record.seed)
    base = flat(spec.base)
    for key in LENGTHS:
        if key in spec.set and key in base:
            put(config, key, base[key])
    program = {} if spec.program is None else {"program": spec.program.to_dict()}
    return {**config, "evidence": {"trainer": spec.trainer, **program, **evidence}}


def training_name(file: Path | str, evidence: Mapping[str, Any]) -> str:
    """Return the name of a configuration's final training: its file's, but of `best.yaml` that of its trial.

    Every sweep's winner is written to a `best.yaml`; `SWEEP-TRIAL` tells them apart.
    """
    stem = Path(file).stem
    known = evidence.get("sweep") and evidence.get("trial") is not None
    return f"{evidence['sweep']}-{evidence['trial']}" if stem == "best" and known else stem


def trained_as(file: str) -> str | None:
    """Return the name of the final training of a configuration's file; None where it is none."""
    if Path(file).suffix not in (".yaml", ".yml") or not Path(file).is_file():
        return None
    evidence = read_yaml(file).content.get("evidence")
    return training_name(file, evidence if isinstance(evidence, dict) else {})


def _chosen(
    spec: SweepSpec,
    trials: Sequence[TrialRecord],
    rows: Sequence[Row],
    trial: str | None,
    environment: Mapping[str, Any] | None,
    sweep_id: str,
) -> tuple[TrialRecord, dict[str, Any]]:
    """Return the trial, and what speaks for it."""
    ranked = {row.trial: row for row in rows if row.metric is not None}
    if trial is None:
        best = next((row for row in ranked.values() if row.rank is not None), None)
        if best is None:
            raise ConfigError([Problem(key=spec.name, rule="no trial of this sweep has a result yet")])
        trial = best.trial
    records = {record.id: record for record in trials}
    if trial not in records or trial not in ranked:
        rule = f"no such trial with a result; `meansweep leaderboard {spec.name}` lists them"
        raise ConfigError([Problem(key=trial, rule=rule, nearest=nearest(trial, list(ranked)))])
    record, row = records[trial], ranked[trial]
    seeds = sorted({r.seed for r in trials if r.config_id == record.config_id and r.metric is not None})
    evidence = {
        "sweep": spec.name,
        **({"sweep_id": sweep_id} if sweep_id else {}),
        "trial": trial,
        "metric": spec.metric.name,
        "goal": spec.metric.goal,
        **({} if spec.metric.at == LAST else {"at": spec.metric.at.to_json()}),
        "value": row.metric,
        "mean": row.mean,
        "ci95": list(row.ci95) if row.ci95 else None,
        "expected": row.estimate and row.estimate.value,
        "expected_loss": row.estimate and row.estimate.loss,
        "seeds": seeds,
        "trials": len(trials),
        "trial_steps": record.steps,
        "trial_config_hash": record.config_hash,
        "curve": {
            int(step): metrics[spec.metric.name]
            for step, metrics in sorted(record.reports.items())
            if spec.metric.name in metrics
        },
        "environment": dict(environment or {}),
    }
    return record, evidence
