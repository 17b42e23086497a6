"""The loss, and what the network is regressed on: a family of objectives."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.objectives.choice import choose_target as choose_target
    from meanflow_core.objectives.cost import relative_cost as relative_cost
    from meanflow_core.objectives.loss import meanflow_loss as meanflow_loss
    from meanflow_core.objectives.scalars import with_scalars as with_scalars
    from meanflow_core.objectives.schedule import draw_split as draw_split

__getattr__, __all__ = lazy_face(__name__, __file__)
