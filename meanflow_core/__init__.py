"""MeanFlow in PyTorch: the loss, the trainer, the networks, the data, and how samples are judged."""

from typing import TYPE_CHECKING, Any

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.config.load import load_config as load_config
    from meanflow_core.config.objective import GuidanceConfig as GuidanceConfig
    from meanflow_core.config.objective import ObjectiveConfig as ObjectiveConfig
    from meanflow_core.config.train_config import TrainConfig as TrainConfig
    from meanflow_core.flow.times import sample_times as sample_times
    from meanflow_core.objectives.loss import meanflow_loss as meanflow_loss
    from meanflow_core.sampling.sampler import sample as sample
    from meanflow_core.training.exported import load_network as load_network
    from meanflow_core.training.trainer import Trainer as Trainer

_lazily, _names = lazy_face(__name__, __file__)
__all__ = [*_names, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("meansweep")
    return _lazily(name)
