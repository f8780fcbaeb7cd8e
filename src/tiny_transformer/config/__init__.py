"""Every setting: one frozen dataclass a component, and `Config`, which composes them."""

from tiny_transformer.config.data import DataConfig
from tiny_transformer.config.model import ModelConfig
from tiny_transformer.config.run import Config, config_hash
from tiny_transformer.config.sampling import SamplingConfig
from tiny_transformer.config.training import OptimizerConfig, ScheduleConfig, TrainingConfig

__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "config_hash",
]
