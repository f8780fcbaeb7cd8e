"""Attention, answered: modules 01 and 02.

`causal_mask`, `explicit_attention`, `fused_attention` and `MultiHeadAttention` are the package's
own, the ones that models run; what stands here is what the package has no name for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.attention import (
    MultiHeadAttention,
    causal_mask,
    explicit_attention,
    fused_attention,
)

__all__ = [
    "MultiHeadAttention",
    "SingleHeadAttention",
    "attention_backward",
    "attention_entropy",
    "attention_flops",
    "attention_weight_bytes",
    "causal_mask",
    "dot_product_similarity",
    "dot_product_variance",
    "explicit_attention",
    "fused_attention",
    "head_contributions",
    "head_divergence",
    "head_importance",
    "is_permutation_equivariant",
    "join_head_weights",
    "masked_softmax",
    "merge_heads",
    "multi_head_flops",
    "multi_head_parameters",
    "repeat_kv_heads",
    "scaled_scores",
    "softmax",
    "softmax_backward",
    "softmax_by_formula",
    "softmax_with_temperature",
    "split_heads",
    "three_tokens_by_hand",
    "weighted_average",
]


def dot_product_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the dot product of each query with each key, (..., Tq, Tk)."""
    return queries @ keys.transpose(-2, -1)


def weighted_average(weights: Tensor, values: Tensor) -> Tensor:
    """Return the values' average for each row of weights, (..., Tq, D)."""
    return weights @ values


def softmax_by_formula(scores: Tensor, dim: int = -1) -> Tensor:
    """Return `exp(s_j) / sum_k exp(s_k)` along `dim`."""
    exponentials = scores.exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


def softmax(scores: Tensor, dim: int = -1) -> Tensor:
    """Return the softmax along `dim`, for scores of any size."""
    largest = scores.amax(dim=dim, keepdim=True)
    return softmax_by_formula(scores - largest, dim)


def softmax_with_temperature(scores: Tensor, temperature: float) -> Tensor:
    """Return the softmax over the last axis of `scores / temperature`."""
    return softmax(scores / temperature)


def dot_product_variance(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    """Return the variance of the dot product of two random vectors of `d_k` components."""
    return d_k * q_std**2 * k_std**2


def scaled_scores(q: Tensor, k: Tensor) -> Tensor:
    """Return `q k^T / sqrt(D)`, (..., Tq, Tk)."""
    return dot_product_similarity(q, k) / math.sqrt(q.shape[-1])


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the keys where `mask` is True; 0 elsewhere."""
    weights = softmax(scores.masked_fill(~mask, float("-inf")))
    return weights.masked_fill(~mask, 0.0)  # a row that sees nothing was 0/0


def three_tokens_by_hand() -> tuple[list[list[float]], list[list[float]]]:
    """Return the weights and outputs of causal attention over the three tokens."""
    weights = [[1, 0, 0], [3 / 4, 1 / 4, 0], [1 / 8, 2 / 8, 5 / 8]]
    outputs = [[8, 0], [6, 2], [6, 7]]
    return weights, outputs


def attention_entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row of weights in nats, (..., Tq)."""
    return torch.special.entr(weights).sum(dim=-1)


def attention_flops(n_tokens: int, d_model: int) -> tuple[int, int]:
    """Return the operations of the projections and of the mixing of one attention part."""
    projections = 4 * 2 * n_tokens * d_model * d_model
    mixing = 2 * 2 * n_tokens * n_tokens * d_model
    return projections, mixing


def attention_weight_bytes(
    batch_size: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4
) -> int:
    """Return the bytes of one layer's attention weights."""
    return batch_size * n_heads * n_tokens * n_tokens * bytes_per_value


def is_permutation_equivariant(
    attend: Callable[[Tensor], Tensor], x: Tensor, order: Tensor
) -> bool:
    """Return whether `attend(x[order])` is `attend(x)[order]`, to 1e-4."""
    reordered_first = attend(x[..., order, :])
    reordered_after = attend(x)[..., order, :]
    return torch.allclose(reordered_first, reordered_after, rtol=1e-4, atol=1e-4)


def softmax_backward(weights: Tensor, grad_weights: Tensor) -> Tensor:
    """Return the softmax's Jacobian times a gradient, row by row."""
    row_sums = (weights * grad_weights).sum(dim=-1, keepdim=True)  # (..., Tq, 1)
    return weights * (grad_weights - row_sums)


def attention_backward(
    q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v through causal attention without dropout."""
    _, weights = explicit_attention(q, k, v)
    grad_v = weights.transpose(-2, -1) @ grad_output
    grad_weights = grad_output @ v.transpose(-2, -1)  # (B, H, Tq, Tk)
    grad_scores = softmax_backward(weights, grad_weights) / math.sqrt(q.shape[-1])
    return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v


class SingleHeadAttention(nn.Module):
    """Causal self-attention with one head as wide as the model, (B, T, C) -> (B, T, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.q_proj = nn.Linear(width, width, bias=config.bias)
        self.k_proj = nn.Linear(width, width, bias=config.bias)
        self.v_proj = nn.Linear(width, width, bias=config.bias)
        self.o_proj = nn.Linear(width, width, bias=config.bias)
        self.dropout = config.dropout_probability

    def forward(self, x: Tensor) -> Tensor:
        """Let each token look at itself and the past."""
        heads = x.unsqueeze(1)  # (B, 1, T, C): one head
        dropout = self.dropout if self.training else 0.0
        y, _ = explicit_attention(
            self.q_proj(heads), self.k_proj(heads), self.v_proj(heads), dropout
        )
        return self.o_proj(y.squeeze(1))


# Module 02: several heads


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return `x` (B, T, C) as (B, H, T, D), head h with its own D channels of each token."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """Return heads (B, H, T, D) side by side, (B, T, H D)."""
    return heads.transpose(1, 2).flatten(-2)


def join_head_weights(head_weights: Sequence[Tensor]) -> Tensor:
    """Return one weight (H D, C) for the heads' weights, each (D, C)."""
    return torch.cat(list(head_weights), dim=0)


def repeat_kv_heads(kv: Tensor, n_heads: int) -> Tensor:
    """Return keys or values (B, H_kv, T, D) for each of `n_heads` query heads."""
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=1)


def multi_head_parameters(
    d_model: int, n_heads: int, n_kv_heads: int | None = None, bias: bool = True
) -> int:
    """Return the number of parameters of the four projections."""
    kv_width = d_model // n_heads * (n_heads if n_kv_heads is None else n_kv_heads)
    widths = [d_model, kv_width, kv_width, d_model]  # what q, k, v and o make of C numbers
    return sum((d_model + bias) * width for width in widths)


def multi_head_flops(
    n_tokens: int, d_model: int, n_heads: int, n_kv_heads: int | None = None
) -> tuple[int, int]:
    """Return the operations of the projections and of the mixing, all heads together."""
    head_dim = d_model // n_heads
    kv_width = head_dim * (n_heads if n_kv_heads is None else n_kv_heads)
    projections = 2 * n_tokens * d_model * (2 * d_model + 2 * kv_width)
    mixing = n_heads * 2 * (2 * n_tokens * n_tokens * head_dim)
    return projections, mixing


def head_divergence(weights: Tensor) -> Tensor:
    """Return the mean Jensen-Shannon divergence of each two heads, (H, H), in nats."""
    p, q = weights.unsqueeze(2), weights.unsqueeze(1)  # (B, H, 1, Tq, Tk), (B, 1, H, Tq, Tk)
    of_the_mean = attention_entropy((p + q) / 2)  # (B, H, H, Tq)
    mean_of_both = (attention_entropy(p) + attention_entropy(q)) / 2
    return (of_the_mean - mean_of_both).mean(dim=(0, -1))


def head_contributions(heads: Tensor, o_weight: Tensor) -> Tensor:
    """Return what each head adds to the output of the last projection, (B, H, T, C)."""
    n_heads, head_dim = heads.shape[1], heads.shape[-1]
    blocks = o_weight.unflatten(1, (n_heads, head_dim))  # (C, H, D)
    return heads @ blocks.permute(1, 2, 0)  # (B, H, T, D) times (H, D, C)


def head_importance(loss_of: Callable[[Tensor], Tensor], n_heads: int) -> Tensor:
    """Return how much the loss rises when each head alone is silenced, (H,)."""
    all_open = torch.ones(n_heads)
    one_closed = 1 - torch.eye(n_heads)  # row h: gate h is 0
    whole = loss_of(all_open)
    return torch.stack([loss_of(gates) - whole for gates in one_closed])
