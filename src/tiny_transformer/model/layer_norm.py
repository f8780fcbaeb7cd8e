"""Normalisation of each token's vector: LayerNorm and RMSNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def explicit_layer_norm(
    x: Float[Tensor, "*batch dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"] | None,
    eps: float,
) -> Float[Tensor, "*batch dim"]:
    """Return `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis.

    The variance is the biased one (divided by dim). Source: Ba et al. 2016, "Layer
    Normalization", section 3.
    """
    mean = x.mean(dim=-1, keepdim=True)  # (*batch, 1)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)  # (*batch, 1)
    normalised = (x - mean) * torch.rsqrt(variance + eps)
    return normalised * weight if bias is None else normalised * weight + bias


def explicit_rms_norm(
    x: Float[Tensor, "*batch dim"], weight: Float[Tensor, " dim"], eps: float
) -> Float[Tensor, "*batch dim"]:
    """Return `x / sqrt(mean(x^2) + eps) * weight` over the last axis.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, scale and shift.

    Args:
        dim: size of the last axis.
        eps: added to the variance, inside the root.
        bias: whether to learn a shift as well as a scale.
        explicit: compute by the formula instead of PyTorch's fused function.

    Shape: `(..., dim) -> (..., dim)`, the dtype kept.
    """

    def __init__(
        self, dim: int, *, eps: float = 1e-5, bias: bool = True, explicit: bool = False
    ) -> None:
        super().__init__()
        self.eps = eps
        self.explicit = explicit
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalise the last axis of `x`."""
        if self.explicit:
            return explicit_layer_norm(x, self.weight, self.bias, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Divide by the root mean square and scale; neither mean nor bias.

    Args:
        dim: size of the last axis.
        eps: added to the mean square, inside the root.
        bias: accepted for LayerNorm's signature; RMSNorm never has one.
        explicit: compute by the formula instead of PyTorch's fused function.

    Shape: `(..., dim) -> (..., dim)`, the dtype kept.
    """

    def __init__(
        self, dim: int, *, eps: float = 1e-5, bias: bool = False, explicit: bool = False
    ) -> None:
        super().__init__()
        self.eps = eps
        self.explicit = explicit
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalise the last axis of `x`."""
        weight = self.weight.to(x.dtype)
        if self.explicit:
            return explicit_rms_norm(x, weight, self.eps)
        return F.rms_norm(x, weight.shape, weight, self.eps)


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
