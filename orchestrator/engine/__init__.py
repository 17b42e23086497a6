"""The decisions of a running sweep, one event after the other: start, dispatch, completion, control."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.engine import control as control
    from orchestrator.engine import edits as edits
    from orchestrator.engine.engine import Engine as Engine
    from orchestrator.engine.reuse import known_configurations as known_configurations
    from orchestrator.engine.start import MakeTracker as MakeTracker
    from orchestrator.engine.start import neighbours as neighbours
    from orchestrator.engine.start import resume_sweep as resume_sweep
    from orchestrator.engine.start import start_sweep as start_sweep

__getattr__, __all__ = lazy_face(__name__, __file__)
