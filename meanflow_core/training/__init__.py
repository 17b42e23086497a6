"""The training loop, its state on disk, and what it logs."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.training.checkpoint import CheckpointError as CheckpointError
    from meanflow_core.training.checkpoint import is_checkpoint as is_checkpoint
    from meanflow_core.training.checkpoint import load_checkpoint as load_checkpoint
    from meanflow_core.training.checkpoint import load_weights as load_weights
    from meanflow_core.training.checkpoint import save_checkpoint as save_checkpoint
    from meanflow_core.training.exported import load_network as load_network
    from meanflow_core.training.trainer import Trainer as Trainer

__getattr__, __all__ = lazy_face(__name__, __file__)
