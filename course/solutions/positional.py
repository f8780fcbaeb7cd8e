"""Positions, answered: module 04.

What the package has is the package's own; what stands here is what it has no name for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tiny_transformer.model.positional import (
    PositionalEmbedding,
    apply_rotary,
    rotary_angles,
    sinusoidal_table,
)

__all__ = [
    "PositionalEmbedding",
    "apply_rotary",
    "rotary_angles",
    "rotary_scores",
    "shift_matrix",
    "sinusoidal_table",
]


def shift_matrix(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    """Return the block-diagonal matrix that moves the sinusoidal code by `offset`, (C, C)."""
    angles = rotary_angles(torch.tensor([offset]), d_model, base)[0]  # (C / 2,)
    cos, sin = angles.cos(), angles.sin()
    pairs = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], dim=-2)
    return torch.block_diag(*pairs)  # pairs are (C / 2, 2, 2)


def rotary_scores(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    """Return the scaled scores of queries and keys that are turned by their positions."""
    n_queries, n_keys, width = q.shape[-2], k.shape[-2], q.shape[-1]
    angles = rotary_angles(torch.arange(n_keys), width, base).to(q.device)  # (Tk, D / 2)
    cos, sin = angles.cos(), angles.sin()
    first = n_keys - n_queries  # the position of the first query
    q = apply_rotary(q, cos[first:], sin[first:])
    k = apply_rotary(k, cos, sin)
    return q @ k.transpose(-2, -1) / math.sqrt(width)
