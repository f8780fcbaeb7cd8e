"""Settings of training on several processes, which torchrun starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config.checks import check_at_least


@dataclass(frozen=True)
class DistributedConfig:
    """What several processes share, and how long they wait for each other."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp keeps the whole model on each rank; fsdp a share of weights, gradients and optimizer."""
    timeout: int = 600
    """Seconds after which a rank that does not answer is given up by the others."""

    def __post_init__(self) -> None:
        check_at_least("distributed", "timeout", self.timeout, 1)
