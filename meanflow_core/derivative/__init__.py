"""The network's prediction and its total derivative du/dt, by methods that agree."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.derivative.methods import predict as predict

__getattr__, __all__ = lazy_face(__name__, __file__)
