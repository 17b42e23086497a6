"""Where a trial runs: its loop, its process or processes, its checkpoints."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.worker.checkpoints import CheckpointStore as CheckpointStore
    from orchestrator.worker.failure_kinds import classify as classify
    from orchestrator.worker.grant import granted as granted
    from orchestrator.worker.group import WorkerGroup as WorkerGroup
    from orchestrator.worker.kept import Kept as Kept
    from orchestrator.worker.kept import delete_checkpoints as delete_checkpoints
    from orchestrator.worker.kept import delete_stored as delete_stored
    from orchestrator.worker.kept import disk_use as disk_use
    from orchestrator.worker.kept import folder_size as folder_size
    from orchestrator.worker.kept import kept_checkpoints as kept_checkpoints
    from orchestrator.worker.kept import measure_stored as measure_stored
    from orchestrator.worker.kept import stored_folders as stored_folders
    from orchestrator.worker.process import SharedData as SharedData
    from orchestrator.worker.process import Work as Work
    from orchestrator.worker.process import leftover_memory as leftover_memory
    from orchestrator.worker.process import prepare_process as prepare_process
    from orchestrator.worker.process import run_on_this_worker as run_on_this_worker
    from orchestrator.worker.process import wait_for_gpu_memory as wait_for_gpu_memory
    from orchestrator.worker.process_group import torch_config as torch_config
    from orchestrator.worker.storage import StorageError as StorageError
    from orchestrator.worker.storage import StoreAway as StoreAway
    from orchestrator.worker.storage import check_writable as check_writable
    from orchestrator.worker.storage import download as download
    from orchestrator.worker.storage import upload as upload
    from orchestrator.worker.trial_loop import MakeTrainer as MakeTrainer
    from orchestrator.worker.trial_loop import OnLog as OnLog
    from orchestrator.worker.trial_loop import build_trainer as build_trainer
    from orchestrator.worker.trial_loop import import_trainer as import_trainer
    from orchestrator.worker.trial_loop import make_shared as make_shared
    from orchestrator.worker.trial_loop import run_trial as run_trial
    from orchestrator.worker.trial_loop import shared_key as shared_key
    from orchestrator.worker.trial_loop import tidy as tidy

__getattr__, __all__ = lazy_face(__name__, __file__)
