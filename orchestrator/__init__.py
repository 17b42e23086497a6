"""The sweep: Ray Tune schedules it, an Optuna study remembers it, MLflow shows it."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.api import Sweep as Sweep
    from orchestrator.api import list_sweeps as list_sweeps
    from orchestrator.api import open_sweep as open_sweep
    from orchestrator.api import run as run
    from orchestrator.reporting import report as report

__getattr__, __all__ = lazy_face(__name__, __file__)
