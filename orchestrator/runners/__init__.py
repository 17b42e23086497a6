"""Who carries the trials out: Ray Tune, or this process."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.runners.inline import run_inline as run_inline
    from orchestrator.runners.ray_nodes import available_on_cluster as available_on_cluster
    from orchestrator.runners.ray_nodes import connected as connected
    from orchestrator.runners.ray_nodes import nodes as nodes
    from orchestrator.runners.ray_session import RayGone as RayGone
    from orchestrator.runners.ray_tune import run_ray as run_ray

__getattr__, __all__ = lazy_face(__name__, __file__)
