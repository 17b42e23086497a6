"""Sweeps for programs and notebooks, and what the commands share with them."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.api.driving import SweepFailed as SweepFailed
    from orchestrator.api.driving import begin as begin
    from orchestrator.api.driving import drive as drive
    from orchestrator.api.driving import finish_sending as finish_sending
    from orchestrator.api.driving import go_on as go_on
    from orchestrator.api.granting import with_grant as with_grant
    from orchestrator.api.opening import compare_named as compare_named
    from orchestrator.api.opening import find_sweep as find_sweep
    from orchestrator.api.opening import home_at as home_at
    from orchestrator.api.opening import read_sweep as read_sweep
    from orchestrator.api.opening import sweep_rows as sweep_rows
    from orchestrator.api.reporting import report_sweep as report_sweep
    from orchestrator.api.same_sweep import checked_id as checked_id
    from orchestrator.api.same_sweep import demand_same as demand_same
    from orchestrator.api.sweep import Sweep as Sweep
    from orchestrator.api.sweep import list_sweeps as list_sweeps
    from orchestrator.api.sweep import open_sweep as open_sweep
    from orchestrator.api.sweep import run as run
    from orchestrator.api.winning import winner as winner

__getattr__, __all__ = lazy_face(__name__, __file__)
