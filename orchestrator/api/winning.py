"""The winner of a sweep as the configuration of its final training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meanflow_core.config import TrainConfig
    from orchestrator.ledger import Ledger


@dataclass(frozen=True)
class Winner:
    """A trial's configuration at the length of the sweep's base."""

    config: TrainConfig | dict[str, Any]
    """Of the MeanFlow trainer a `TrainConfig`, of any other what that trainer gets, with `evidence` beside it."""
    yaml: str
    evidence: dict[str, Any]
    """What speaks for it."""
    steps: int | None


def winner(ledger: Ledger, trial: str | None = None) -> Winner:
    """Return the winner of a sweep, or another trial of it.

    Args:
        ledger: the sweep's.
        trial: the trial to take; None takes the best.

    Raises:
        ConfigError: nothing has a result yet, or there is no such trial.
    """
    from meanflow_core.config import write_yaml
    from orchestrator.results import leaderboard, standing, winning_config, winning_mapping

    spec, trials = ledger.spec(), standing(ledger)
    rows = leaderboard(spec, trials)
    known: dict[str, Any] = {"trial": trial, "environment": ledger.environment(), "sweep_id": ledger.id}
    if spec.builtin_trainer:
        config = winning_config(spec, trials, rows, **known)
        return Winner(config, config.to_yaml(), dict(config.evidence), config.trainer.steps)
    mapping = winning_mapping(spec, trials, rows, **known)
    evidence = mapping["evidence"]
    steps = (mapping.get("trainer") or {}).get("steps") if spec.program is None else evidence["trial_steps"]
    return Winner(mapping, write_yaml(mapping), evidence, steps)
