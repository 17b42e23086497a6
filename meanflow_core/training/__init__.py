"""The training loop, its state on disk, and what it logs."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.training.background import BackgroundWriter as BackgroundWriter
    from meanflow_core.training.checkpoint import CheckpointError as CheckpointError
    from meanflow_core.training.checkpoint import Snapshot as Snapshot
    from meanflow_core.training.checkpoint import is_checkpoint as is_checkpoint
    from meanflow_core.training.checkpoint import load_checkpoint as load_checkpoint
    from meanflow_core.training.checkpoint import load_metadata as load_metadata
    from meanflow_core.training.checkpoint import load_weights as load_weights
    from meanflow_core.training.checkpoint import save_checkpoint as save_checkpoint
    from meanflow_core.training.checkpoint import save_weights as save_weights
    from meanflow_core.training.checkpoint import take_snapshot as take_snapshot
    from meanflow_core.training.ema import length_name as length_name
    from meanflow_core.training.ema import length_of as length_of
    from meanflow_core.training.exported import load_network as load_network
    from meanflow_core.training.post_hoc import coefficients as coefficients
    from meanflow_core.training.post_hoc import combined as combined
    from meanflow_core.training.trainer import Trainer as Trainer

__getattr__, __all__ = lazy_face(__name__, __file__)
