"""Search methods and rules of early stopping: decisions as functions of what is recorded."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.search.curve import Curve as Curve
    from orchestrator.search.draws import Draw as Draw
    from orchestrator.search.draws import Member as Member
    from orchestrator.search.draws import Observation as Observation
    from orchestrator.search.draws import finite as finite
    from orchestrator.search.method import Method as Method
    from orchestrator.search.methods import ALIASES as ALIASES
    from orchestrator.search.methods import METHODS as METHODS
    from orchestrator.search.replication import Replicates as Replicates
    from orchestrator.search.replication import next_replicate as next_replicate
    from orchestrator.search.rule import Rule as Rule
    from orchestrator.search.rules import RULES as RULES

__getattr__, __all__ = lazy_face(__name__, __file__)
