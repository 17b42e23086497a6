"""Sample quality: Frechet distance, accuracy, precision and recall, Wasserstein, MMD."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.metrics.build import METRICS as METRICS
    from meanflow_core.metrics.build import Evaluator as Evaluator
    from meanflow_core.metrics.build import build_evaluator as build_evaluator
    from meanflow_core.metrics.scales import by_scale as by_scale

__getattr__, __all__ = lazy_face(__name__, __file__)
