"""The final training of the winner, its place in the MLflow model registry, and its samples."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from orchestrator.final.mlflow_registry import register_model as register_model
    from orchestrator.final.mlflow_registry import resolve as resolve
    from orchestrator.final.program_training import ProgramResult as ProgramResult
    from orchestrator.final.program_training import program_result as program_result
    from orchestrator.final.program_training import train_program as train_program
    from orchestrator.final.reproduction import rank_correlation as rank_correlation
    from orchestrator.final.samples import sample_picture as sample_picture
    from orchestrator.final.training import FinalResult as FinalResult
    from orchestrator.final.training import result_of as result_of
    from orchestrator.final.training import train_final as train_final
    from orchestrator.final.training import training_in as training_in
    from orchestrator.final.training import trainings_of as trainings_of

__getattr__, __all__ = lazy_face(__name__, __file__)
