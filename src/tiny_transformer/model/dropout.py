"""Dropout, with masks drawn eight to a random number on a CPU.

PyTorch draws a 32-bit random number for every element, which took 30 % of a training step
of the base model on two CPU cores. A probability that is a multiple of 1/256 needs eight
bits: one 64-bit draw serves eight elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tiny_transformer.runtime.random_state import current_generator

_LEVELS = 256


def dropout(x: Float[Tensor, "*shape"], probability: float) -> Float[Tensor, "*shape"]:
    """Zero each element with `probability`, and divide the others by `1 - probability`.

    Args:
        x: any shape.
        probability: 0 to below 1; on a CPU it counts as the nearest multiple of 1/256
            (`ModelConfig.dropout_probability` is one). Draws come from the thread's own
            generator if it has one, and else from PyTorch's global one.

    Source: Srivastava et al. 2014, "Dropout", section 4, in the inverted form.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability, training=True)
    keep, factor = draw_kept(x.shape, probability)
    return x * keep.to(x.dtype).mul_(factor)


def draw_kept(shape: Sequence[int], probability: float) -> tuple[Bool[Tensor, "*shape"], float]:
    """Draw which elements stay, on the CPU; return that, and what they are multiplied by."""
    zeroed = round(probability * _LEVELS)  # of 256 equally likely bytes
    size = math.prod(shape)
    draws = torch.empty(-(-size // 8), dtype=torch.int64).random_(
        -(2**63), None, generator=current_generator()
    )
    keep = (draws.view(torch.uint8)[:size] >= zeroed).view(torch.Size(shape))
    return keep, _LEVELS / (_LEVELS - zeroed)


class Dropout(nn.Module):
    """`dropout` while training, nothing in evaluation.

    Args:
        probability: of zeroing an element.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Drop elements of `x` while training."""
        return dropout(x, self.probability) if self.training else x
