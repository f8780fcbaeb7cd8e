"""Where a token stands: learned, sinusoidal and rotary positions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tiny_transformer.config import ModelConfig


def sinusoidal_table(
    length: int, d_model: int, base: float = 10000.0
) -> Float[Tensor, "length d_model"]:
    """Return `sin(p / base^(2i/d))` in the even columns and `cos` in the odd ones.

    Args:
        length: number of positions p, from 0.
        d_model: number of columns, even.
        base: the longest wavelength is nearly `2 pi base`.

    Returns:
        float32. Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    angles = rotary_angles(torch.arange(length), d_model, base)  # (length, d_model / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


def rotary_angles(
    positions: Int[Tensor, " T"], head_dim: int, base: float = 10000.0
) -> Float[Tensor, "T half"]:
    """Return the angle `p / base^(2i/head_dim)` for each position p and pair i, in float64.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu")
    frequencies = base ** (-pairs / head_dim)  # (half,)
    return positions.cpu().double()[:, None] * frequencies


def apply_rotary(
    x: Float[Tensor, "B H T D"], cos: Float[Tensor, "T half"], sin: Float[Tensor, "T half"]
) -> Float[Tensor, "B H T D"]:
    """Turn each pair `(x[i], x[i + D/2])` by its angle (the half-split form).

    A query and a key turned this way have a dot product that depends on the distance
    between their positions alone. The dtype of `x` is kept.
    """
    first, second = x.chunk(2, dim=-1)  # (B, H, T, half) each
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class _Rotation(torch.autograd.Function):
    """`apply_rotary` in two passes over memory each way; the way back turns by `-angle`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    turned = torch.empty_like(x)
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=direction)
    return turned


class RotaryTable(nn.Module):
    """The cosines and sines of all positions, computed once; it has no parameters.

    Args:
        head_dim: width of a head, even.
        length: number of positions.
        base: base of the wavelengths.
        explicit: rotate by `apply_rotary` instead of its faster form.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, head_dim: int, length: int, base: float = 10000.0, *, explicit: bool = False
    ) -> None:
        super().__init__()
        self.explicit = explicit
        angles = rotary_angles(torch.arange(length), head_dim, base)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Float[Tensor, "B H T D"], offset: int = 0) -> Float[Tensor, "B H T D"]:
        """Rotate queries or keys whose first position is `offset`."""
        end = offset + x.shape[-2]
        cos, sin = self.cos[offset:end], self.sin[offset:end]  # (T, D / 2) each
        if self.explicit:
            return apply_rotary(x, cos, sin)
        return _Rotation.apply(x, cos.to(x.dtype), sin.to(x.dtype))  # pyright: ignore[reportReturnType]


class PositionalEmbedding(nn.Module):
    """A vector for each position, learned or sinusoidal.

    Args:
        config: its `position` chooses: `learned` has a parameter `weight` of shape
            `(context_length, d_model)`, `sinusoidal` a constant table of that shape.
    """

    weight: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = (config.context_length, config.d_model)
        if config.position == "learned":
            self.weight = nn.Parameter(torch.zeros(size))
        else:
            table = sinusoidal_table(*size, base=config.rotary_base)
            self.register_buffer("weight", table, persistent=False)

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "T C"]:
        """Return the vectors of positions `offset` to `offset + length - 1`."""
        return self.weight[offset : offset + length]


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
