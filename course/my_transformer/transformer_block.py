"""The transformer block, written by you: module 03.

From one line, the residual, to the part that the model is a stack of. What you write here uses
parts that others made: functions and modules that map (B, T, C) to (B, T, C).

Dimensions: `B` batch, `T` tokens, `C` width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig


def add_residual(x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what goes on in the residual stream after a part has added to it.

        output = x + part(x)

    The part reads the stream and writes a change. What was there stays there.

    Args:
        x: (..., C), the stream. It is not changed: whoever gave it may still need it.
        part: maps (..., C) to (..., C); call it once.

    Returns:
        (..., C), of the same dtype.

    Example:
        >>> add_residual(torch.tensor([1.0, 2.0]), lambda x: 10 * x)
        tensor([11., 22.])
    """
    raise NotImplementedError("residual")


def normalised_residual(
    x: Tensor,
    part: Callable[[Tensor], Tensor],
    norm: Callable[[Tensor], Tensor],
    placement: str = "pre",
) -> Tensor:
    """Return the stream after a part with a norm before it, or after the sum.

        "pre":   x + part(norm(x))     a path from input to output that nothing touches
        "post":  norm(x + part(x))     as in the first transformer

    Args:
        x: (..., C), the stream. It is not changed.
        part: maps (..., C) to (..., C); call it once.
        norm: maps (..., C) to (..., C); call it once.
        placement: `"pre"` or `"post"`.

    Returns:
        (..., C), of the same dtype.

    Raises:
        ValueError: the placement is neither.

    Example: a part that adds 1 to everything makes 1 + x, and a norm that divides by 10.
        >>> x = torch.tensor([10.0, 20.0])
        >>> normalised_residual(x, lambda x: x + 1, lambda x: x / 10, "pre")
        tensor([12., 23.])
        >>> normalised_residual(x, lambda x: x + 1, lambda x: x / 10, "post")
        tensor([2.1000, 4.1000])
    """
    raise NotImplementedError("pre-and-post-norm")


def gradient_norms(
    blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor, grad_output: Tensor
) -> list[float]:
    """Return how large the gradient is at each place of the stream.

    The stream runs through the blocks: x_0 = x, x_1 = blocks[0](x_0), and so on to x_L. A
    gradient of some loss arrives at x_L. How large is it when it has come back to x_l? The
    norm of a tensor is the root of the sum of all its squares.

    Autograd gives gradients by tensors in the middle, too. Parameters' `.grad` is somebody
    else's and must be as it was afterwards; so must `x`, its `requires_grad` and its `.grad`.

    Args:
        blocks: L functions or modules, each (..., C) to (..., C); run each once.
        x: (..., C), what goes into the first.
        grad_output: (..., C), the gradient of the loss by what comes out of the last.

    Returns:
        L + 1 plain floats: the norms of the gradients by x_0, x_1, ... x_L. The last is the norm
        of `grad_output`.

    Example: each block doubles, so going back the gradient doubles at each.
        >>> blocks = [lambda x: 2 * x, lambda x: 2 * x]
        >>> gradient_norms(blocks, torch.ones(2), torch.tensor([3.0, 4.0]))
        [20.0, 10.0, 5.0]
    """
    raise NotImplementedError("gradient-norms")


class TransformerBlock(nn.Module):
    """One block of the model: attention and MLP, each normalised first and added back.

        x = x + drop(attention(norm1(x)))
        x = x + drop(mlp(norm2(x)))

    The model is a stack of these. It can take the place of the reference's block.

    Args:
        config: the architecture. `dropout` is the probability of zeroing a number of what a
            branch adds, by your own `Dropout`, which is imported from `my_transformer.dropout`; the
            parts look at the rest.
        parts: what to build with. Its `build_norm`, `attention` and `mlp` are each called with
            the config and return a new part: so the block goes with anybody's, yours too. Call
            each as often as you need one: what is made once is one module, with one set of
            weights.

    Parameters: those of `norm1`, `attention`, `norm2` and `mlp`, under these names, and nothing
    else in `state_dict`.

    Shape: (B, T, C) -> (B, T, C); the dtype and the device are those of `x`, which is not
    changed.

    Example: with a norm, an attention and an MLP that do nothing, each branch doubles.
        >>> from types import SimpleNamespace
        >>> parts = SimpleNamespace(build_norm=lambda config: nn.Identity(),
        ...                         attention=lambda config: nn.Identity(),
        ...                         mlp=lambda config: nn.Identity())
        >>> block = TransformerBlock(ModelConfig(d_model=4, n_heads=1, dropout=0.0), parts)
        >>> block(torch.ones(1, 2, 4)).unique()
        tensor([4.])
    """

    def __init__(self, config: ModelConfig, parts: Any) -> None:
        raise NotImplementedError("transformer-block")

    def forward(self, x: Tensor) -> Tensor:
        """Read from the stream `x` (B, T, C) twice, and add to it twice."""
        raise NotImplementedError("transformer-block")
