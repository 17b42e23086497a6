"""How a sweep is shown in MLflow, by an outbox on disk that never holds up training."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.tracking.final_run import FinalRunLogger as FinalRunLogger
    from orchestrator.tracking.final_run import final_run_id as final_run_id
    from orchestrator.tracking.mlflow_removal import Shown as Shown
    from orchestrator.tracking.mlflow_removal import delete_own_files as delete_own_files
    from orchestrator.tracking.mlflow_removal import find_shown as find_shown
    from orchestrator.tracking.mlflow_removal import remove_shown as remove_shown
    from orchestrator.tracking.mlflow_store import Store as Store
    from orchestrator.tracking.mlflow_store import connect as connect
    from orchestrator.tracking.mlflow_store import is_refusal_of_user as is_refusal_of_user
    from orchestrator.tracking.mlflow_store import sending as sending
    from orchestrator.tracking.mlflow_sync import check as check
    from orchestrator.tracking.mlflow_sync import sync as sync
    from orchestrator.tracking.mlflow_ui import serve as serve
    from orchestrator.tracking.mlflow_views import final_description as final_description
    from orchestrator.tracking.outbox import outbox_id as outbox_id
    from orchestrator.tracking.outbox import show_deleted as show_deleted
    from orchestrator.tracking.run_files import share_file as share_file
    from orchestrator.tracking.tracker import MlflowTracker as MlflowTracker
    from orchestrator.tracking.tracker import Tracker as Tracker
    from orchestrator.tracking.tracker import link_to_runs as link_to_runs
    from orchestrator.tracking.tracker import run_ids as run_ids

__getattr__, __all__ = lazy_face(__name__, __file__)
