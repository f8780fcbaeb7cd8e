"""The feed-forward part of a block: each token's vector on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tiny_transformer.config import ModelConfig


def explicit_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `x * Phi(x)`, Phi the normal distribution's cumulative function.

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.
    """
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def explicit_gelu_tanh(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return GELU's tanh approximation, the one GPT-2 uses (same source, section 2)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def explicit_relu_squared(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `max(x, 0)^2`. Source: So et al. 2021, "Primer", section 3.1."""
    return F.relu(x).square()


class _ReluSquared(torch.autograd.Function):
    """The same with one stored tensor, and two passes over memory backwards for four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.mul(gradients[0], positive).mul_(2)


def _relu_squared(x: Tensor) -> Tensor:
    return _ReluSquared.apply(x)  # pyright: ignore[reportReturnType]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_FUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _relu_squared,
    "swiglu": F.silu,
}
_EXPLICIT = _FUSED | {
    "gelu": explicit_gelu,
    "gelu_tanh": explicit_gelu_tanh,
    "relu2": explicit_relu_squared,
}


class MLP(nn.Module):
    """Widen, bend, narrow: `down(act(up(x)))`; for SwiGLU `down(silu(gate(x)) * up(x))`.

    Args:
        config: the architecture; `d_ff`, `activation` and `bias` matter here.

    Parameters: `up_proj`, `down_proj`, and for SwiGLU `gate_proj`. Shape:
    `(B, T, C) -> (B, T, C)`. SwiGLU: Shazeer 2020, "GLU Variants Improve Transformer".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.d_model, config.feed_forward_width
        self.up_proj = nn.Linear(width, inner, bias=config.bias)
        self.gate_proj = (
            nn.Linear(width, inner, bias=config.bias) if config.activation == "swiglu" else None
        )
        self.down_proj = nn.Linear(inner, width, bias=config.bias)
        functions = _EXPLICIT if config.backend == "explicit" else _FUSED
        self.activation = functions[config.activation]

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Transform every token's vector by the same function."""
        inner = self.up_proj(x)  # (B, T, d_ff)
        if self.gate_proj is None:
            return self.down_proj(self.activation(inner))
        return self.down_proj(self.activation(self.gate_proj(x)) * inner)


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
