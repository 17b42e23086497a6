"""The sweep file: read and checked as a whole, every mistake at once, before anything starts."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.spec.json_schema import sweep_schema as sweep_schema
    from orchestrator.spec.program import ENDLESS as ENDLESS
    from orchestrator.spec.program import Program as Program
    from orchestrator.spec.reader import flat as flat
    from orchestrator.spec.reader import put as put
    from orchestrator.spec.settings import Budget as Budget
    from orchestrator.spec.settings import Resources as Resources
    from orchestrator.spec.sweep import SweepSpec as SweepSpec
    from orchestrator.spec.sweep import read_spec as read_spec
    from orchestrator.spec.sweep_file import DEFAULT_TRAINER as DEFAULT_TRAINER

__getattr__, __all__ = lazy_face(__name__, __file__)
