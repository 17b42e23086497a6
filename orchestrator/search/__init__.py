"""Decisions as functions of the record: the next configuration, when to stop, promote or repeat a trial."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.search import promotion as promotion
    from orchestrator.search import replication as replication
    from orchestrator.search.pruning import Curve as Curve
    from orchestrator.search.pruning import keep_count as keep_count
    from orchestrator.search.pruning import reason_to_stop as reason_to_stop
    from orchestrator.search.samplers import Draw as Draw
    from orchestrator.search.samplers import Observation as Observation
    from orchestrator.search.samplers import Search as Search
    from orchestrator.search.samplers import finite as finite

__getattr__, __all__ = lazy_face(__name__, __file__)
