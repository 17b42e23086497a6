"""The path z_t, the distribution of (t, r), guidance, and the adaptive weight."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.flow.condition import ConditionSpec as ConditionSpec
    from meanflow_core.flow.condition import draw_scales as draw_scales
    from meanflow_core.flow.condition import null_condition as null_condition
    from meanflow_core.flow.condition import with_scale as with_scale
    from meanflow_core.flow.guidance import evaluating as evaluating
    from meanflow_core.flow.guidance import guided_velocity as guided_velocity
    from meanflow_core.flow.path import Network as Network
    from meanflow_core.flow.path import interpolate as interpolate
    from meanflow_core.flow.path import is_exactly as is_exactly
    from meanflow_core.flow.path import per_row as per_row
    from meanflow_core.flow.times import sample_dropped as sample_dropped
    from meanflow_core.flow.times import sample_times as sample_times
    from meanflow_core.flow.times import spanning_rows as spanning_rows
    from meanflow_core.flow.weighting import row_weight as row_weight

__getattr__, __all__ = lazy_face(__name__, __file__)
