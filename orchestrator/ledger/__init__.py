"""The only record of a sweep: an Optuna study in a journal file."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.ledger.damage import repair as repair
    from orchestrator.ledger.driver_lock import driver_of as driver_of
    from orchestrator.ledger.errors import LedgerError as LedgerError
    from orchestrator.ledger.errors import SweepBusy as SweepBusy
    from orchestrator.ledger.events import CHANGED as CHANGED
    from orchestrator.ledger.events import REMOVING as REMOVING
    from orchestrator.ledger.events import Carry as Carry
    from orchestrator.ledger.events import NewTrial as NewTrial
    from orchestrator.ledger.events import Point as Point
    from orchestrator.ledger.events import WarmStart as WarmStart
    from orchestrator.ledger.history import TrialHistory as TrialHistory
    from orchestrator.ledger.ledger import Ledger as Ledger

__getattr__, __all__ = lazy_face(__name__, __file__)
