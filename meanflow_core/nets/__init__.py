"""The networks: MLP, DiT, U-Net, each written once in ordinary torch, and what they cost."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.nets.build import build_net as build_net
    from meanflow_core.nets.cost import forward_flops as forward_flops
    from meanflow_core.nets.custom import fitted as fitted

__getattr__, __all__ = lazy_face(__name__, __file__)
