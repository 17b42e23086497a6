"""What may be tried: parameters, the space they span, and conditions between them."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.space.condition import Condition as Condition
    from orchestrator.space.condition import Predicate as Predicate
    from orchestrator.space.condition import parse_condition as parse_condition
    from orchestrator.space.condition import same as same
    from orchestrator.space.parameter import Kind as Kind
    from orchestrator.space.parameter import Parameter as Parameter
    from orchestrator.space.parameter import on_lattice as on_lattice
    from orchestrator.space.prior import Prior as Prior
    from orchestrator.space.search_space import Space as Space

__getattr__, __all__ = lazy_face(__name__, __file__)
