"""Causal multi-head self-attention: the explicit form, the fused form, and the part.

    softmax(Q K^T / sqrt(D) + mask) V

Notable: grouped key-value heads, rotary positions, QK-norm and a key-value cache are
options of one class. The explicit form can return its weights; the fused form is what
training runs. A test holds the two equal, forwards and backwards.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.dropout import dropout as drop
from tiny_transformer.model.dropped_attention import dropped_attention
from tiny_transformer.model.kv_cache import LayerCache
from tiny_transformer.model.layer_norm import LayerNorm, RMSNorm
from tiny_transformer.model.positional import RotaryTable


def causal_mask(
    n_queries: int, n_keys: int, device: torch.device | None = None
) -> Bool[Tensor, "n_queries n_keys"]:
    """Return which keys each query may look at: its own and all earlier ones (True).

    The queries are the last `n_queries` of the `n_keys` positions, as when the earlier
    keys come from a cache.
    """
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return mask.tril(diagonal=n_keys - n_queries)


def explicit_attention(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "B H Tk D"],
    v: Float[Tensor, "B H Tk D"],
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "B H Tq D"], Float[Tensor, "B H Tq Tk"]]:
    """Causal scaled dot-product attention, every step spelled out.

    Args:
        q: queries, the last Tq of the Tk positions.
        k: keys.
        v: values.
        dropout: probability of zeroing a weight.

    Returns:
        The output, and the weights before dropout: each row sums to one over the keys.
        Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1.
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, H, Tq, Tk)
    mask = causal_mask(q.shape[-2], k.shape[-2], q.device)
    scores = torch.where(mask, scores, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32))
    weights = weights.to(v.dtype)
    return drop(weights, dropout) @ v, weights


def fused_attention(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "B H Tk D"],
    v: Float[Tensor, "B H Tk D"],
    dropout: float = 0.0,
) -> Float[Tensor, "B H Tq D"]:
    """Compute what `explicit_attention` computes, without storing the weights.

    PyTorch's kernel for CPUs knows no dropout; there `dropped_attention` takes over, and the
    explicit form where it cannot (bfloat16, a cache).

    Source: Dao et al. 2022, "FlashAttention", through PyTorch's
    `scaled_dot_product_attention`.
    """
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    whole = n_queries == n_keys
    if dropout > 0 and q.device.type == "cpu":
        if whole and q.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            return dropped_attention(q, k, v, dropout)
        return explicit_attention(q, k, v, dropout)[0]
    mask = None if whole or n_queries == 1 else causal_mask(n_queries, n_keys, q.device)
    causal = bool(whole and n_queries > 1)  # torch.export has its own kind of truth
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal
    )


class MultiHeadAttention(nn.Module):
    """Project to heads, let each token look back, project to the stream again.

    Args:
        config: the architecture; `n_heads`, `n_kv_heads`, `position`, `qk_norm`,
            `bias`, `dropout` and `backend` matter here.

    Parameters: `q_proj`, `k_proj`, `v_proj`, `o_proj`, and with QK-norm `q_norm`,
    `k_norm`. Shape: `(B, T, C) -> (B, T, C)`. Grouped heads: Ainslie et al. 2023,
    "GQA", section 2.2. QK-norm: Dehghani et al. 2023, "Scaling Vision Transformers to 22
    Billion Parameters", section 2.1 (LayerNorm); Qwen3 has the same with RMSNorm.
    """

    capabilities = frozenset({"kv_cache", "grouped_heads", "rotary", "qk_norm", "weights"})

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, kv_width = config.d_model, config.kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.dropout = config.dropout_probability
        self.backend = config.backend
        self.q_proj = nn.Linear(width, width, bias=config.bias)
        self.k_proj = nn.Linear(width, kv_width, bias=config.bias)
        self.v_proj = nn.Linear(width, kv_width, bias=config.bias)
        self.o_proj = nn.Linear(width, width, bias=config.bias)
        explicit = config.backend == "explicit"
        if config.qk_norm:
            norm = RMSNorm if config.norm == "rms_norm" else LayerNorm
            settings = {"eps": config.norm_eps, "bias": False, "explicit": explicit}
            self.q_norm = norm(config.head_dim, **settings)
            self.k_norm = norm(config.head_dim, **settings)
        else:
            self.q_norm = self.k_norm = None
        self.rotary = (
            RotaryTable(
                config.head_dim, config.context_length, config.rotary_base, explicit=explicit
            )
            if config.position == "rotary"
            else None
        )

    def forward(
        self, x: Float[Tensor, "B T C"], cache: LayerCache | None = None
    ) -> Float[Tensor, "B T C"]:
        """Attend within `x`, and to the cached tokens before it if there is a cache."""
        q, k, v = self._queries_keys_values(x, cache)
        dropout = self.dropout if self.training else 0.0
        if self.backend == "explicit":
            heads, _ = explicit_attention(q, k, v, dropout)
        else:
            heads = fused_attention(q, k, v, dropout)
        return self._merge(heads)

    def forward_with_weights(
        self, x: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B H T T"]]:
        """Return the output and the attention weights, by the explicit form."""
        q, k, v = self._queries_keys_values(x, None)
        heads, weights = explicit_attention(q, k, v, self.dropout if self.training else 0.0)
        return self._merge(heads), weights

    def _queries_keys_values(
        self, x: Tensor, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        q = self._split(self.q_proj(x))  # (B, T, H, D)
        k = self._split(self.k_proj(x))  # (B, T, H_kv, D)
        v = self._split(self.v_proj(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        if self.rotary is not None:
            offset = 0 if cache is None else cache.length
            q, k = self.rotary(q, offset), self.rotary(k, offset)
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, H_kv, T_past + T, D)
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k = k.repeat_interleave(group, dim=1)  # (B, H, T_past + T, D)
            v = v.repeat_interleave(group, dim=1)
        return q, k, v

    def _split(self, x: Float[Tensor, "B T width"]) -> Float[Tensor, "B T H D"]:
        return x.unflatten(-1, (-1, self.head_dim))

    def _merge(self, heads: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T C"]:
        return self.o_proj(heads.transpose(1, 2).flatten(-2))


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
