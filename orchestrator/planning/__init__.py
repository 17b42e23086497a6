"""What a sweep will do and cost, measured before it starts, and what it would not find here."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.planning.cost import expected_reaching as expected_reaching
    from orchestrator.planning.plan import against_actual as against_actual
    from orchestrator.planning.plan import make_plan as make_plan
    from orchestrator.planning.plan import render_plan as render_plan
    from orchestrator.planning.preflight import demand_ready as demand_ready
    from orchestrator.planning.preflight import demand_storage as demand_storage
    from orchestrator.planning.preflight import look_here as look_here
    from orchestrator.planning.probe import available_here as available_here
    from orchestrator.planning.probe import choose_probe_configs as choose_probe_configs
    from orchestrator.planning.probe import measure as measure

__getattr__, __all__ = lazy_face(__name__, __file__)
