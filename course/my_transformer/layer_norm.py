"""Layer normalisation, written by you: module 03.

A function first, by the formula, and then the part of the model that owns a scale and a shift.

Dimensions: `B` batch, `T` tokens, `C` width of the model, `dim` size of the axis that is
normalised; `...` stands for any axes in front, or none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def explicit_layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise each vector along the last axis, then scale and shift it.

        mean     = the average of the vector's numbers
        variance = the average of (number - mean) squared: divided by dim, not by dim - 1
        output   = (x - mean) / sqrt(variance + eps) * weight + bias

    Each token has a mean and a variance of its own: no number of another token, nor of another
    sequence, enters. `eps` keeps a vector of equal numbers from being divided by 0.

    Take the mean away before you square: of numbers near 1000 that differ by 1, the squares
    agree in all the digits that float32 has to spare. Write it with means, a root and the four
    operations; `F.layer_norm` is what you are writing.

    Args:
        x: (..., dim), float. It is not changed.
        weight: (dim,), the scale of each channel.
        bias: (dim,), the shift of each channel; None for no shift.
        eps: a small number, added to the variance, inside the root.

    Returns:
        The shape and dtype of `x`.

    Example: the mean is 3 and the variance 4, so each number is 1 deviation off.
        >>> x = torch.tensor([[1.0, 5.0]])
        >>> explicit_layer_norm(x, torch.ones(2), None, eps=0.0)
        tensor([[-1.,  1.]])
        >>> explicit_layer_norm(x, torch.tensor([1.0, 10.0]), torch.tensor([0.0, 2.0]), eps=0.0)
        tensor([[-1., 12.]])
    """
    raise NotImplementedError("layer-norm-by-formula")


class LayerNorm(nn.Module):
    """Layer normalisation as a part of the model: it owns the scale and the shift.

    It can take the place of the reference's norms: two in each block and one at the end.

    Args:
        dim: size of the last axis.
        eps: added to the variance, inside the root.
        bias: whether there is a shift as well as a scale.

    Parameters, and nothing else in `state_dict`: `weight` (dim,), which begins as ones, and
    `bias` (dim,), which begins as zeros. Without a shift, `self.bias` is None. Nothing is
    remembered from one call to the next, and training and evaluation are the same.

    Shape: (..., dim) -> (..., dim); the dtype and the device are those of `x`, which is not
    changed.

    Example:
        >>> norm = LayerNorm(2, eps=0.0)
        >>> norm(torch.tensor([[1.0, 5.0], [7.0, 7.5]])).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
        >>> sorted(norm.state_dict()), sorted(LayerNorm(2, bias=False).state_dict())
        (['bias', 'weight'], ['weight'])
    """

    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        raise NotImplementedError("layer-norm")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of `x`, then scale and shift."""
        raise NotImplementedError("layer-norm")
