"""The loss: what the network is regressed on."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.objectives.loss import meanflow_loss as meanflow_loss

__getattr__, __all__ = lazy_face(__name__, __file__)
