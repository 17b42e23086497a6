"""The training configuration: frozen dataclasses, read from YAML, every mistake at once."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.config import train_config as train_config
    from meanflow_core.config.train_config import Cifar10Config as Cifar10Config
    from meanflow_core.config.train_config import DataConfig as DataConfig
    from meanflow_core.config.train_config import DigitsConfig as DigitsConfig
    from meanflow_core.config.train_config import DiTConfig as DiTConfig
    from meanflow_core.config.train_config import EMAConfig as EMAConfig
    from meanflow_core.config.train_config import EvaluationConfig as EvaluationConfig
    from meanflow_core.config.train_config import GuidanceConfig as GuidanceConfig
    from meanflow_core.config.train_config import ImageFolderConfig as ImageFolderConfig
    from meanflow_core.config.train_config import LatentsConfig as LatentsConfig
    from meanflow_core.config.train_config import MLPConfig as MLPConfig
    from meanflow_core.config.train_config import ModelConfig as ModelConfig
    from meanflow_core.config.train_config import ObjectiveConfig as ObjectiveConfig
    from meanflow_core.config.train_config import OptimizerConfig as OptimizerConfig
    from meanflow_core.config.train_config import TimeConfig as TimeConfig
    from meanflow_core.config.train_config import TimeEmbedding as TimeEmbedding
    from meanflow_core.config.train_config import Toy2dConfig as Toy2dConfig
    from meanflow_core.config.train_config import TrainConfig as TrainConfig
    from meanflow_core.config.train_config import UNetConfig as UNetConfig
    from meanflow_core.config.train_config import WeightConfig as WeightConfig
    from meanflow_core.config.train_config import load_config as load_config
    from meanflow_core.config.train_config import valid_keys as valid_keys
    from meanflow_core.config.train_config import with_values as with_values
    from meanflow_core.config.yaml_file import YamlFile as YamlFile
    from meanflow_core.config.yaml_file import parse_value as parse_value
    from meanflow_core.config.yaml_file import read_yaml as read_yaml
    from meanflow_core.config.yaml_file import write_yaml as write_yaml

__getattr__, __all__ = lazy_face(__name__, __file__)
