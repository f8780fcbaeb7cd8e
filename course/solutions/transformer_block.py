"""The transformer block, answered: module 03.

`TransformerBlock` and `gradient_norms` are the package's own; the package's block spells its
two residuals out, so the functions on the way there stand here.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tiny_transformer.course.depth import gradient_norms
from tiny_transformer.model.transformer_block import TransformerBlock

__all__ = ["TransformerBlock", "add_residual", "gradient_norms", "normalised_residual"]


def add_residual(x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `x + part(x)`."""
    return x + part(x)


def normalised_residual(
    x: Tensor,
    part: Callable[[Tensor], Tensor],
    norm: Callable[[Tensor], Tensor],
    placement: str = "pre",
) -> Tensor:
    """Return `x + part(norm(x))` for "pre", `norm(x + part(x))` for "post"."""
    if placement == "pre":
        return add_residual(x, lambda stream: part(norm(stream)))
    if placement == "post":
        return norm(add_residual(x, part))
    raise ValueError(f"placement is {placement!r}; expected 'pre' or 'post'")
