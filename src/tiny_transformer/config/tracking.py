"""Settings of the experiment trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config.checks import check

TrackerName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class TrackingConfig:
    """Where metrics go beside the console and the run's own log."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    trackers: tuple[TrackerName, ...] = ()
    """tensorboard, wandb, trackio; one whose package is missing is left out with a line."""
    project: str = "tiny_transformer"
    """Project under which wandb and trackio file the run."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """offline writes to the run's folder alone; `wandb sync` uploads it later."""

    def __post_init__(self) -> None:
        check(self.project != "", "tracking.project is empty; give the project a name.")
        twice = sorted({name for name in self.trackers if self.trackers.count(name) > 1})
        check(not twice, f"tracking.trackers names {', '.join(twice)} twice.")
