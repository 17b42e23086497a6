"""The thread that delivers an outbox while its sweep, or its training, runs."""

from __future__ import annotations

import logging
import threading
import time

from orchestrator.credentials import without_password
from orchestrator.tracking.mlflow_delivery import Delivery
from orchestrator.tracking.mlflow_store import sending

log = logging.getLogger(__name__)

LAST_CHANCES = 3
"""Attempts of a sender that is to end: a store that is busy for a moment (SQLite with two writers) is not down."""


class Sender(threading.Thread):
    """The thread that delivers while the sweep runs. It never raises and never holds up the driver.

    Args:
        delivery: what to send and where to.
        interval: seconds between looks into the outbox; events of that time go together.
        longest_pause: seconds; after a failure the pause doubles up to it.
    """

    def __init__(self, delivery: Delivery, *, interval: float = 1.0, longest_pause: float = 30.0) -> None:
        super().__init__(name="meansweep-mlflow", daemon=True)
        self.delivery = delivery
        self.problem: str | None = None
        """Why the last attempt failed; None after a success."""
        self._interval = interval
        self._longest_pause = longest_pause
        self._wake = threading.Event()
        self._closing = False

    def run(self) -> None:
        """Send until closed and everything is sent, or closed and the store is down."""
        pause, chances = self._interval, LAST_CHANCES
        with sending(self.delivery.outbox.folder, wait=True):
            while True:
                closing = self._closing  # read first: what comes before it in the outbox is sent below
                try:
                    while self.delivery.send():
                        pass
                    if self.problem:
                        log.warning("MLflow is back; the queued events have been sent")
                    self.problem, pause = None, self._interval
                except Exception as error:
                    reason = without_password(str(error) or type(error).__name__)
                    if self.problem is None:
                        log.warning(
                            "MLflow cannot be reached, events are queued in %s: %s", self.delivery.outbox.path, reason
                        )
                    self.problem, pause = reason, min(2 * pause, self._longest_pause)
                if closing:
                    chances -= 1
                    if self.problem is None or not chances:
                        return
                    time.sleep(min(self._interval, 0.2))
                    continue
                self._wake.wait(pause)
                if not self._closing:
                    self._wake.clear()

    def close(self, timeout: float) -> int:
        """Send what is left, at most `timeout` seconds long; return the number of records that remain."""
        self._closing = True
        self._wake.set()
        self.join(timeout)
        return self.delivery.pending
