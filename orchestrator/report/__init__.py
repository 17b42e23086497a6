"""One HTML file with everything about a sweep."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.report.html import find_images as find_images
    from orchestrator.report.html import write_report as write_report
    from orchestrator.report.parts import FinalTraining as FinalTraining

__getattr__, __all__ = lazy_face(__name__, __file__)
