"""Views of the record: leaderboard, status, comparison, importance, export, the winner."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.results.across import SweepComparison as SweepComparison
    from orchestrator.results.across import compare_sweeps as compare_sweeps
    from orchestrator.results.across import row_json as row_json
    from orchestrator.results.across import side_of as side_of
    from orchestrator.results.across import sweeps_verdict as sweeps_verdict
    from orchestrator.results.across_text import rows_of_sweeps as rows_of_sweeps
    from orchestrator.results.across_text import sweeps_table as sweeps_table
    from orchestrator.results.comparison import compare as compare
    from orchestrator.results.comparison import compare_table as compare_table
    from orchestrator.results.comparison import curve_of as curve_of
    from orchestrator.results.export import to_csv as to_csv
    from orchestrator.results.findings import notes as notes
    from orchestrator.results.findings import verdict as verdict
    from orchestrator.results.leaderboard_rows import Row as Row
    from orchestrator.results.leaderboard_rows import leaderboard as leaderboard
    from orchestrator.results.leaderboard_text import against_best as against_best
    from orchestrator.results.leaderboard_text import bad_seeds_text as bad_seeds_text
    from orchestrator.results.leaderboard_text import interval_text as interval_text
    from orchestrator.results.leaderboard_text import leaderboard_table as leaderboard_table
    from orchestrator.results.leaderboard_text import state_text as state_text
    from orchestrator.results.leaderboard_text import varying as varying
    from orchestrator.results.live import LiveDisplay as LiveDisplay
    from orchestrator.results.parameter_importance import Importance as Importance
    from orchestrator.results.parameter_importance import importance as importance
    from orchestrator.results.parameter_importance import importance_table as importance_table
    from orchestrator.results.rung_audit import audit_rungs as audit_rungs
    from orchestrator.results.rung_audit import audit_warnings as audit_warnings
    from orchestrator.results.seed_spread import seen_spread as seen_spread
    from orchestrator.results.studies import distributions_of as distributions_of
    from orchestrator.results.studies import rebuild_study as rebuild_study
    from orchestrator.results.studies import study_of as study_of
    from orchestrator.results.sweep_status import Status as Status
    from orchestrator.results.sweep_status import best_so_far as best_so_far
    from orchestrator.results.sweep_status import best_text as best_text
    from orchestrator.results.sweep_status import standing as standing
    from orchestrator.results.sweep_status import status_of as status_of
    from orchestrator.results.sweep_status import status_table as status_table
    from orchestrator.results.winner import trained_as as trained_as
    from orchestrator.results.winner import training_name as training_name
    from orchestrator.results.winner import winning_config as winning_config
    from orchestrator.results.winner import winning_mapping as winning_mapping

__getattr__, __all__ = lazy_face(__name__, __file__)
