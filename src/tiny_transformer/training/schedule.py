"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from tiny_transformer.config import ScheduleConfig


def learning_rate_scale(step: int, config: ScheduleConfig, max_steps: int) -> float:
    """Return what the peak learning rates are multiplied by in an update.

    Args:
        step: number of updates already made, from 0.
        config: shape, warm-up and end. The warm-up rises in equal parts to 1 at its last
            update; cosine and linear then fall to `final_fraction` at update
            `max_steps - 1`, and stay there.
        max_steps: the horizon.

    Returns:
        A number between 0 and 1. Source of the cosine: Loshchilov and Hutter 2017,
        "SGDR", equation 5.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.name == "constant":
        return 1.0
    falling_steps = max(1, max_steps - config.warmup_steps)
    progress = min(1.0, (step + 1 - config.warmup_steps) / falling_steps)
    if config.name == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return 1 - (1 - config.final_fraction) * progress
