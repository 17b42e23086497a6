"""The training configuration: frozen dataclasses, read from YAML, every mistake at once."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.config.custom import CustomData as CustomData
    from meanflow_core.config.custom import CustomModel as CustomModel
    from meanflow_core.config.custom import CustomSection as CustomSection
    from meanflow_core.config.custom import bare_name as bare_name
    from meanflow_core.config.custom import call_named as call_named
    from meanflow_core.config.custom import import_named as import_named
    from meanflow_core.config.custom import imported as imported
    from meanflow_core.config.custom import is_named as is_named
    from meanflow_core.config.data import Cifar10Config as Cifar10Config
    from meanflow_core.config.data import DataConfig as DataConfig
    from meanflow_core.config.data import DigitsConfig as DigitsConfig
    from meanflow_core.config.data import ImageFolderConfig as ImageFolderConfig
    from meanflow_core.config.data import LatentsConfig as LatentsConfig
    from meanflow_core.config.data import MnistConfig as MnistConfig
    from meanflow_core.config.data import Toy2dConfig as Toy2dConfig
    from meanflow_core.config.defaults import FIRST as FIRST
    from meanflow_core.config.defaults import NOT_IN_IDENTITY as NOT_IN_IDENTITY
    from meanflow_core.config.defaults import RECORDS as RECORDS
    from meanflow_core.config.defaults import difference as difference
    from meanflow_core.config.load import load_config as load_config
    from meanflow_core.config.load import valid_keys as valid_keys
    from meanflow_core.config.load import with_values as with_values
    from meanflow_core.config.model import DiTConfig as DiTConfig
    from meanflow_core.config.model import MLPConfig as MLPConfig
    from meanflow_core.config.model import ModelConfig as ModelConfig
    from meanflow_core.config.model import TimeEmbedding as TimeEmbedding
    from meanflow_core.config.model import UNetConfig as UNetConfig
    from meanflow_core.config.objective import GuidanceConfig as GuidanceConfig
    from meanflow_core.config.objective import ObjectiveConfig as ObjectiveConfig
    from meanflow_core.config.objective import SplitConfig as SplitConfig
    from meanflow_core.config.objective import TimeConfig as TimeConfig
    from meanflow_core.config.objective import WeightConfig as WeightConfig
    from meanflow_core.config.objective_presets import PRESETS as PRESETS
    from meanflow_core.config.objective_presets import Preset as Preset
    from meanflow_core.config.section import Section as Section
    from meanflow_core.config.train_config import TrainConfig as TrainConfig
    from meanflow_core.config.train_config import ill_fitting as ill_fitting
    from meanflow_core.config.training import BEST as BEST
    from meanflow_core.config.training import LONGEST as LONGEST
    from meanflow_core.config.training import EMAConfig as EMAConfig
    from meanflow_core.config.training import EvaluationConfig as EvaluationConfig
    from meanflow_core.config.training import OptimizerConfig as OptimizerConfig
    from meanflow_core.config.yaml_file import YamlFile as YamlFile
    from meanflow_core.config.yaml_file import parse_value as parse_value
    from meanflow_core.config.yaml_file import read_yaml as read_yaml
    from meanflow_core.config.yaml_file import write_yaml as write_yaml

__getattr__, __all__ = lazy_face(__name__, __file__)
