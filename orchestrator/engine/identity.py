"""Which configuration a trial has trained, in today's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meanflow_core.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger, TrialHistory


def identity(ledger: Ledger, history: TrialHistory) -> str:
    """Return the hash of a trial's configuration as `SweepSpec.config_hash` gives it now.

    What is recorded is that already, except by earlier releases, which hashed every key there was: those are hashed
    anew, from the sweep file that the trial was drawn from. Where that is no valid configuration any more, the recorded
    hash, which no present one equals.
    """
    recorded = history.birth.config_hash
    if "-" in recorded:
        return recorded
    try:
        spec = ledger.spec(history.birth.revision)
        return spec.config_hash(spec.config_for(history.birth.values, seed=history.birth.seed))
    except ConfigError:
        return recorded
