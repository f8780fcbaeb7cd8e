"""The settings of a run: one record that composes the others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from tiny_transformer.config.checkpoints import CheckpointsConfig
from tiny_transformer.config.checks import check
from tiny_transformer.config.data import DataConfig
from tiny_transformer.config.distributed import DistributedConfig
from tiny_transformer.config.model import ModelConfig
from tiny_transformer.config.sampling import SamplingConfig
from tiny_transformer.config.tracking import TrackingConfig
from tiny_transformer.config.training import OptimizerConfig, ScheduleConfig, TrainingConfig

_LEAST_BPE = 257  # as in text/bpe_library.py, which is a floor above
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    run_name: str | None = None
    """Name of the run and of its folder; None makes one from the time and six hex digits."""
    runs_dir: str = "runs"
    """Folder in which runs are kept."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    hooks: tuple[dict[str, Any], ...] = ()
    """Hooks in the order in which they run: `{name: ..., enabled: ..., and its own settings}`."""

    def __post_init__(self) -> None:
        check(
            self.run_name is None or _RUN_NAME.fullmatch(self.run_name) is not None,
            f"run_name is {self.run_name!r}; use up to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit.",
        )
        for hook in self.hooks:
            check(
                isinstance(hook.get("name"), str) and hook["name"] != "",
                f"hooks holds {hook!r}; each hook needs a name, as in {{name: activation_stats}}.",
            )
        if self.data.tokenizer == "bpe":
            size = self.model.vocab_size
            check(
                size >= _LEAST_BPE,
                f"model.vocab_size is {size}; a byte-pair encoding (data.tokenizer bpe) needs at "
                f"least {_LEAST_BPE}, for the 256 bytes and a pair. Try --model.vocab-size 1024.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain nested dictionaries."""
        settings = dataclasses.asdict(self)
        settings["hooks"] = list(settings["hooks"])  # YAML has no tuples
        settings["tracking"]["trackers"] = list(self.tracking.trackers)
        settings["sampling"]["stop"] = list(self.sampling.stop)
        return settings


def config_hash(config: Config) -> str:
    """Return 16 hex digits that change with every setting that can change the numbers.

    What a run is called, where it and its corpus lie, where it pauses, who else is told
    of it, which of its checkpoints are kept and how processes share the work do not.
    """
    settings = config.to_dict()
    for name in ("run_name", "runs_dir", "tracking", "checkpoints", "distributed"):
        del settings[name]
    del settings["training"]["stop_at"]
    settings["data"]["corpus"] = PurePath(config.data.corpus).name
    settings["data"]["tokenizer"] = PurePath(config.data.tokenizer).name
    if config.data.tokenizer == "characters":  # as before there was a choice
        del settings["data"]["tokenizer"]
    text = json.dumps(_canonical(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """Write equal numbers alike, so that equal configs have equal hashes: 1.0 as 1."""
    if isinstance(value, dict):
        return {name: _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
