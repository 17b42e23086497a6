"""What has been deleted of a sweep's trials, as its ledger records it: checkpoints, and whole trials.

They are facts of the sweep, each named after a row: Optuna adds nothing to the row of a trial that has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.ledger.history import TrialHistory
    from orchestrator.ledger.studies import Studies


class Deletions:
    """Records deletions; they are for good.

    Args:
        studies: that hold the ledger.
    """

    def __init__(self, studies: Studies) -> None:
        self._studies = studies

    def apply(self, history: TrialHistory) -> None:
        """Take what is recorded into a history that was read back."""
        history.forget_checkpoints(self._studies.facts.get(_pruned(history), ()))
        history.deleted = _deleted(history) in self._studies.facts

    def of_checkpoints(self, history: TrialHistory, steps: Iterable[int]) -> None:
        """Record that a trial's checkpoints at these steps are deleted; its reports stay."""
        gone = sorted({*self._studies.facts.get(_pruned(history), ()), *steps})
        self._studies.set_fact(_pruned(history), gone)
        history.forget_checkpoints(gone)

    def of_trial(self, history: TrialHistory) -> None:
        """Record that a trial that has ended is deleted: it counts as tried, and is shown nowhere."""
        self._studies.set_fact(_deleted(history), time.time())
        history.deleted = True


def _pruned(history: TrialHistory) -> str:
    return f"pruned:{history.row}"


def _deleted(history: TrialHistory) -> str:
    return f"deleted:{history.row}"
