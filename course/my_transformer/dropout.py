"""Dropout, written by you: module 03."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zero numbers at random while training, and do nothing in evaluation.

        training:    output = x / (1 - p) where a draw says keep, 0 where it says drop
        evaluation:  output = x

    Each number is dropped with probability p, independently of every other, and anew in each
    call. Those that stay are enlarged by 1 / (1 - p) while training, so that the expected output
    is x, and evaluation needs no change: that is the inverted form, which everybody uses.

    `nn.Module` keeps `self.training` for you: `train()` sets it to True, `eval()` to False, for
    a module and all modules inside it. Write it with random numbers; `nn.Dropout` and
    `F.dropout` are what you are writing.

    Args:
        probability: p, from 0 to below 1.

    Nothing in `state_dict`. Shape: any; the dtype and the device are those of `x`, which is not
    changed. Gradients flow back through what stayed, enlarged as it was.

    Example: with p = 1/2, what stays is doubled.
        >>> drop = Dropout(0.5)
        >>> sorted(set(drop(torch.ones(1000)).tolist()))
        [0.0, 2.0]
        >>> drop.eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(self, probability: float) -> None:
        raise NotImplementedError("dropout")

    def forward(self, x: Tensor) -> Tensor:
        """Drop numbers of `x` while training."""
        raise NotImplementedError("dropout")
