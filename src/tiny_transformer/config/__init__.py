"""Every setting: one frozen dataclass a component, and `Config`, which composes them."""

from tiny_transformer.config.checkpoints import CheckpointsConfig
from tiny_transformer.config.data import DataConfig
from tiny_transformer.config.model import ModelConfig
from tiny_transformer.config.run import Config, config_hash
from tiny_transformer.config.sampling import SamplingConfig
from tiny_transformer.config.tracking import TrackingConfig
from tiny_transformer.config.training import OptimizerConfig, ScheduleConfig, TrainingConfig

__all__ = [
    "CheckpointsConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "TrackingConfig",
    "TrainingConfig",
    "config_hash",
]
