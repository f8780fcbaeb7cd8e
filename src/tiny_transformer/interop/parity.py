"""The gate: what was written computes the model's logits, or it is not kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import ExportError, Logits
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import generator


@dataclass(frozen=True)
class Parity:
    """How far a written model is from ours.

    Attributes:
        largest_difference: of any logit.
        allowed: the most that passes.
        logits: how many were compared.
    """

    largest_difference: float
    allowed: float
    logits: int


def fixed_inputs(config: ModelConfig, longest: int | None = None) -> list[Tensor]:
    """Return ids `(B, T)` of three shapes, the same on every machine.

    One token; a few short sequences, so that batch and length are seen to vary; and one
    sequence that fills the context, so that every position is used.

    Args:
        config: the architecture.
        longest: cut the last one there.
    """
    length = min(config.context_length, longest or config.context_length)
    shapes = [(1, 1), (3, min(7, length)), (1, length)]
    draws = generator("interop", "parity")
    return [torch.randint(config.vocab_size, shape, generator=draws) for shape in shapes]


@torch.no_grad()
def check_parity(
    model: Transformer,
    theirs: Logits,
    *,
    allowed: float,
    what: str,
    inputs: Sequence[Tensor] | None = None,
) -> Parity:
    """Compare logits on some inputs.

    Args:
        model: ours, in evaluation mode on the CPU.
        theirs: what was read back.
        allowed: the largest difference that passes, inclusive.
        what: the file, as the message names it.
        inputs: ids `(B, T)` to compare on; None takes the fixed ones.

    Raises:
        ExportError: a logit differs by more, or is not a number; the message says where.
    """
    largest, compared = 0.0, 0
    for ids in fixed_inputs(model.config) if inputs is None else inputs:
        ours, other = model(ids), theirs(ids)
        if ours.shape != other.shape:
            raise ExportError(
                f"{what} was not kept: for ids of shape {tuple(ids.shape)} its logits have shape "
                f"{tuple(other.shape)}, and the model's {tuple(ours.shape)}."
            )
        difference = _difference(ours, other)
        if not difference.max() <= allowed:
            raise ExportError(_disagreement(difference, allowed, what))
        largest = max(largest, difference.max().item())
        compared += difference.numel()
    return Parity(largest, allowed, compared)


def _difference(ours: Tensor, other: Tensor) -> Float[Tensor, "B T V"]:
    """Return absolute differences; infinite where either is not a finite number."""
    difference = (ours.double() - other.double()).abs()
    return difference.nan_to_num(nan=math.inf, posinf=math.inf)


def _disagreement(difference: Float[Tensor, "B T V"], allowed: float, what: str) -> str:
    per_position = difference.amax(dim=2)  # (B, T)
    rows, positions = torch.nonzero(per_position > allowed, as_tuple=True)
    first = int(positions.argmin())
    row, position = int(rows[first]), int(positions[first])
    worst = divmod(int(per_position.argmax()), per_position.shape[1])
    return (
        f"{what} was not kept: its logits are not the model's. With ids of shape "
        f"{tuple(per_position.shape)} they first part at position {position} of row {row}, by "
        f"{per_position[row, position].item():.2g}; the largest difference is "
        f"{per_position.max().item():.2g}, at position {worst[1]} of row {worst[0]}; allowed is "
        f"{allowed:.2g}."
    )
