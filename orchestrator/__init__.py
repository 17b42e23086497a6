"""The sweep: Ray Tune schedules it, an Optuna study remembers it, MLflow shows it."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.reporting import report as report

__getattr__, __all__ = lazy_face(__name__, __file__)
