"""Settings of the checkpoints: which of them are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config.checks import check, check_at_least


@dataclass(frozen=True)
class CheckpointsConfig:
    """Which checkpoints stay: those that any of the three rules keeps."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    keep_last: int | None = 3
    """Newest checkpoints to keep; None keeps all."""
    keep_best: int = 1
    """Best checkpoints to keep."""
    keep_every: int = 0
    """Keep each checkpoint whose step is a multiple of this; 0 keeps none for that."""
    metric: str = "val_loss"
    """What best means: any metric that is logged at a checkpoint's step."""
    mode: Literal["min", "max"] = "min"
    """min: smaller is better."""

    def __post_init__(self) -> None:
        if self.keep_last is not None:
            check_at_least("checkpoints", "keep_last", self.keep_last, 1)
        check_at_least("checkpoints", "keep_best", self.keep_best, 0)
        check_at_least("checkpoints", "keep_every", self.keep_every, 0)
        check(self.metric != "", "checkpoints.metric is empty; name one, for instance val_loss.")
