"""The feed-forward part, written by you: module 03.

Two forms of one bend, GELU, and the part of the model that widens, bends and narrows again.

Dimensions: `B` batch, `T` tokens, `C` width of the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig


def explicit_gelu(x: Tensor) -> Tensor:
    """Return GELU, exactly: each number times the share of a normal distribution below it.

        gelu(x) = x Phi(x),   Phi(x) = (1 + erf(x / sqrt(2))) / 2

    `Phi(x)` is the probability that a standard normal number is below x. `torch.erf` is the
    error function. Large numbers pass, very negative ones become 0, and in between there is a
    bend with a small dip below 0. `F.gelu` is what you are writing.

    Args:
        x: any shape, float. It is not changed.

    Returns:
        The shape and dtype of `x`.

    Example: Phi(0) is 1/2, and Phi(1) is 0.8413.
        >>> explicit_gelu(torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0]))
        tensor([-0.0000, -0.1587,  0.0000,  0.8413, 10.0000])
    """
    raise NotImplementedError("gelu")


def explicit_gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU's approximation by a hyperbolic tangent, which GPT-2 uses.

        x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))

    It was made when `erf` was slow, and differs from the exact form by less than 0.0005. Models
    that were trained with one form have to be run with it, so both are around.

    Args:
        x: any shape, float. It is not changed.

    Returns:
        The shape and dtype of `x`.

    Example: the fourth digit is where it parts from the exact form, which is -0.0455 at -2.
        >>> explicit_gelu_tanh(torch.tensor([-2.0, 1.0, 2.0]))
        tensor([-0.0454,  0.8412,  1.9546])
    """
    raise NotImplementedError("gelu-tanh")


class MLP(nn.Module):
    """The feed-forward part of a block: widen, bend, narrow.

        y = down_proj(activation(up_proj(x)))

    Attention brings tokens together; this part works on each token alone, all with the same
    weights. It can take the place of the MLP in the real model.

    Args:
        config: the architecture. `d_model` is the width C, `feed_forward_width` the width
            inside (it is `d_ff`, or 4 C where that is None). `bias` says whether the layers
            have one. `activation` is `"gelu"` for the exact form or `"gelu_tanh"` for the
            approximation; the package knows others, which you may leave out, best with an
            error.

    Parameters, and nothing else in `state_dict`: two linear layers, `up_proj` from C to the
    width inside and `down_proj` back.

    There is no dropout in it and no residual around it: the block does both.

    Shape: (B, T, C) -> (B, T, C); the dtype and the device are those of `x`, which is not
    changed.

    Example:
        >>> config = ModelConfig(d_model=8, n_heads=2, d_ff=24)
        >>> mlp = MLP(config)
        >>> mlp.up_proj.weight.shape, mlp(torch.zeros(2, 5, 8)).shape
        (torch.Size([24, 8]), torch.Size([2, 5, 8]))
    """

    def __init__(self, config: ModelConfig) -> None:
        raise NotImplementedError("mlp")

    def forward(self, x: Tensor) -> Tensor:
        """Transform the vector of every token of `x` (B, T, C) by the same function."""
        raise NotImplementedError("mlp")
