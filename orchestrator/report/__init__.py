"""One HTML file with everything about a sweep."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.report.across import write_sweeps_report as write_sweeps_report
    from orchestrator.report.html import find_images as find_images
    from orchestrator.report.html import write_report as write_report
    from orchestrator.report.parts import FinalTraining as FinalTraining

__getattr__, __all__ = lazy_face(__name__, __file__)


class _Callable(ModuleType):
    """This package takes the place of the function `orchestrator.report` once it is imported, and is called alike."""

    def __call__(self, step: int, **metrics: Any) -> None:
        from orchestrator.reporting import report

        report(step, **metrics)


sys.modules[__name__].__class__ = _Callable
