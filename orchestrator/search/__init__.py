"""Search methods and rules of early stopping: decisions as functions of what is recorded."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.search.choice import LEAST as LEAST
    from orchestrator.search.choice import Estimate as Estimate
    from orchestrator.search.choice import Estimates as Estimates
    from orchestrator.search.choice import by_model as by_model
    from orchestrator.search.choice import by_seeds as by_seeds
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
    from orchestrator.search.rung_evidence import MISLEADS as MISLEADS
    from orchestrator.search.rung_evidence import agreement as agreement

__getattr__, __all__ = lazy_face(__name__, __file__)
