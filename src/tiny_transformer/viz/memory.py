"""How many bytes training, or generating, takes: arithmetic on the config alone.

Notable: a model far too large for this machine can be measured up before it is built. Tests
hold the counts equal to real tensors, and the activations near what a real forward keeps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tiny_transformer.config import ModelConfig
from tiny_transformer.config.checks import check, check_at_least
from tiny_transformer.viz.activations import (
    ActivationEstimate,
    estimate_activations,
    measure_saved_bytes,
)
from tiny_transformer.viz.parameters import (
    ParameterCount,
    block_matrix_parameters,
    count_parameters,
    flops_per_token,
    kv_width,
)

__all__ = [
    "ActivationEstimate",
    "MemoryEstimate",
    "ParameterCount",
    "count_parameters",
    "estimate_activations",
    "estimate_memory",
    "flops_per_token",
    "format_bytes",
    "format_count",
    "measure_saved_bytes",
]

_FLOAT32 = 4  # bytes
_OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training, or generating, holds at once."""

    weights: int
    """float32 at either precision: bfloat16 is an autocast over float32 weights."""
    gradients: int
    """float32, one for each weight; 0 without training."""
    optimizer: int
    """State of the optimizer; 0 without training."""
    activations: int
    """Saved for backward by one micro-batch; 0 without training."""
    kv_cache: int
    """Keys and values of a full context while generating; 0 while training."""

    @property
    def total(self) -> int:
        """All of them; the temporary tensors of the operation at work come on top."""
        return sum(dataclasses.astuple(self))


def estimate_memory(
    config: ModelConfig,
    *,
    batch_size: int,
    accumulation_steps: int = 1,
    precision: str = "float32",
    optimizer: str = "adamw",
    training: bool = True,
) -> MemoryEstimate:
    """Return the bytes that a training step, or generating, holds at its fullest.

    With P parameters, of which M are in the blocks' matrices:

    | part | bytes |
    |---|---|
    | weights | `4 P` |
    | gradients | `4 P` |
    | AdamW: means of gradients and of their squares | `8 P` |
    | Muon: momentum for the matrices, AdamW for the rest | `4 M + 8 (P - M)` |
    | activations | `estimate_activations` |
    | cache: keys and values | `2 L B K T` times 4 |

    AdamW's step counters (4 bytes a tensor) are left out.

    Args:
        config: the architecture.
        batch_size: windows per optimizer step, or sequences generated side by side.
        accumulation_steps: micro-batches that a batch is cut into; divides batch_size.
        precision: `"float32"`, or `"bfloat16"` for the autocast.
        optimizer: `"adamw"` or `"muon"`.
        training: False leaves out what only training needs, and adds the key-value cache.

    Raises:
        ConfigError: a size is not positive, or a name is unknown.
    """
    check_at_least("training", "batch_size", batch_size, 1)
    check_at_least("training", "accumulation_steps", accumulation_steps, 1)
    check(
        batch_size % accumulation_steps == 0,
        f"training.accumulation_steps is {accumulation_steps}; it must divide "
        f"training.batch_size, which is {batch_size}.",
    )
    check(
        optimizer in _OPTIMIZERS,
        f"optimizer.name is {optimizer!r}; expected {' or '.join(_OPTIMIZERS)}.",
    )
    activations = estimate_activations(
        config, batch_size=batch_size // accumulation_steps, precision=precision
    )
    n_parameters = count_parameters(config).total
    weights = _FLOAT32 * n_parameters
    if not training:
        positions = batch_size * config.context_length
        cache = _FLOAT32 * 2 * config.n_layers * positions * kv_width(config)
        return MemoryEstimate(weights, 0, 0, 0, cache)
    n_momentum_only = block_matrix_parameters(config) if optimizer == "muon" else 0
    state = _FLOAT32 * (2 * n_parameters - n_momentum_only)
    return MemoryEstimate(weights, weights, state, activations.total, 0)


def format_bytes(n_bytes: int) -> str:
    """Return `n_bytes` in the unit that suits it: `"999 B"`, `"12.4 MiB"`, `"1.50 GiB"`."""
    return _scaled(n_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def format_count(count: int) -> str:
    """Return `count` in thousands: `"999"`, `"22.6 M"`, `"1.50 G"`."""
    return _scaled(count, 1000, ("", "k", "M", "G", "T")).rstrip()


def _scaled(value: int, base: int, units: tuple[str, ...]) -> str:
    """Return three digits and the largest unit that leaves at least one before the point."""
    scaled, unit = float(value), 0
    while abs(scaled) >= base and unit < len(units) - 1:
        scaled, unit = scaled / base, unit + 1
    if unit == 0:
        return f"{value} {units[0]}"
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f} {units[unit]}"
