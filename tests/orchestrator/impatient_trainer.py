"""A trainer whose worker does not wait long for lost data: it is imported there before they are asked for."""

from orchestrator.worker import process
from tests.orchestrator.toy_trainers import Sharing

process.PAUSES = (0.5, 1.0, 1.5)


class Impatient(Sharing):
    """As `Sharing`."""
