"""Settings of training: the optimizer, its schedule, and the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config.checks import check, check_at_least, check_finite


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change weights."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: Literal["adamw", "muon"] = "adamw"
    """muon updates the blocks' matrices with Muon and the rest with AdamW."""
    learning_rate: float = 3e-4
    """AdamW's learning rate."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.95
    """AdamW's decay of the mean of squared gradients."""
    eps: float = 1e-8
    """AdamW's guard against division by zero."""
    muon_learning_rate: float = 0.02
    """Muon's learning rate; the update of a matrix has a spectral norm near 1."""
    muon_momentum: float = 0.95
    """Muon's momentum."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "muon_learning_rate"):
            value = getattr(self, name)
            check_finite("optimizer", name, value)
            check(value >= 0, f"optimizer.{name} is {value}; it must be at least 0.")
        for name in ("beta1", "beta2", "muon_momentum"):
            value = getattr(self, name)
            check(
                0 <= value < 1, f"optimizer.{name} is {value}; it must be at least 0 and below 1."
            )
        check_finite("optimizer", "eps", self.eps)
        check(self.eps > 0, f"optimizer.eps is {self.eps}; it must be above 0.")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rates change with the step."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: Literal["constant", "cosine", "linear"] = "constant"
    """Shape after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0 to its peak."""
    final_fraction: float = 0.1
    """Learning rate at the last step, as a fraction of the peak (cosine and linear)."""

    def __post_init__(self) -> None:
        check_at_least("schedule", "warmup_steps", self.warmup_steps, 0)
        check(
            0 <= self.final_fraction <= 1,
            f"schedule.final_fraction is {self.final_fraction}; it must be between 0 and 1.",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The loop: how long, how much at once, and how often to look."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    max_steps: int = 5000
    """Optimizer steps of the whole run; the schedule's horizon."""
    stop_at: int | None = None
    """End the run early at this step, with the schedule as if it went on to max_steps."""
    batch_size: int = 16
    """Windows per optimizer step."""
    accumulation_steps: int = 1
    """Micro-batches that a batch is cut into, to save memory; divides batch_size."""
    shards: int | None = None
    """Parts of a micro-batch computed side by side on a CPU's threads; None suits the machine."""
    compile: bool = False
    """Compile the model with torch.compile: a minute before the first step, faster on a GPU."""
    eval_every: int = 200
    """Steps between evaluations on the whole validation part; 0 evaluates only at the end."""
    eval_batch_size: int = 32
    """Windows evaluated at once."""
    sample_every: int = 500
    """Steps between sample texts; 0 samples only at the start and the end."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; 0 saves only at the end."""
    log_every: int = 1
    """Steps between training lines in the log."""
    grad_clip: float = 1.0
    """Largest global norm of the gradient; 0 switches clipping off."""
    seed: int = 1337
    """Seed of the first weights, the order of the data and dropout."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto takes bfloat16 where the hardware computes in it."""

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "batch_size",
            "accumulation_steps",
            "eval_batch_size",
            "log_every",
        ):
            check_at_least("training", name, getattr(self, name), 1)
        for name in ("eval_every", "sample_every", "checkpoint_every", "seed"):
            check_at_least("training", name, getattr(self, name), 0)
        if self.stop_at is not None:
            check_at_least("training", "stop_at", self.stop_at, 1)
        if self.shards is not None:
            check_at_least("training", "shards", self.shards, 1)
        check_finite("training", "grad_clip", self.grad_clip)
        check(
            self.grad_clip >= 0,
            f"training.grad_clip is {self.grad_clip}; it must be at least 0 (0 is off).",
        )
        check(
            self.batch_size % self.accumulation_steps == 0,
            f"training.batch_size is {self.batch_size} and training.accumulation_steps is "
            f"{self.accumulation_steps}: micro-batches must be of equal size, so "
            "accumulation_steps must divide batch_size.",
        )
        windows = self.batch_size // self.accumulation_steps
        check(
            windows % (self.shards or 1) == 0,
            f"training.shards is {self.shards} and a micro-batch has {windows} windows "
            "(batch_size / accumulation_steps): shards must be of equal size, so shards must "
            "divide it.",
        )

    @property
    def last_step(self) -> int:
        """The step at which this run ends."""
        return self.max_steps if self.stop_at is None else min(self.stop_at, self.max_steps)
