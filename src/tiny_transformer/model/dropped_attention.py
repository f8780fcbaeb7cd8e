"""Causal attention with dropout on a CPU, forwards and backwards in few passes over memory.

What `explicit_attention` computes, with the same masks for the same generator. Notable: the
queries are taken in two halves, and the first does not look at the second half's keys, which
the causal mask would only throw away (a quarter of the work); of the three (T, T) tensors
that autograd would keep, one remains, and a byte for each mask bit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_transformer.model.dropout import draw_kept

_PIECES = 2  # of the queries; four measured no faster, for the products grow small


class DroppedAttention(torch.autograd.Function):
    """`drop(softmax(q k^T / sqrt(D) + mask)) v` for float32 tensors on a CPU.

    The gradient follows Dao et al. 2022, "FlashAttention", appendix B: with P the weights,
    Z the dropped and rescaled ones and O the output, `dS = Z dZ - P rowsum(dO O)`.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Take (B, H, T, D) queries, keys and values, and a probability above 0."""
        B, H, T, D = q.shape
        keep, factor = draw_kept((B * H, T, T), dropout)
        q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
        scaled_v = v * factor
        output = q.new_empty(q.shape)  # in this order, whatever that of q in memory is
        weights = []
        for a, b in _pieces(T):
            mask = torch.full((b - a, b), float("-inf")).triu_(a + 1)
            scores = torch.baddbmm(
                mask.expand(B * H, b - a, b), q[:, a:b], k[:, :b].mT, alpha=1 / math.sqrt(D)
            )
            weights.append(torch.softmax(scores, dim=-1))  # (B H, b - a, b)
            torch.mul(weights[-1], keep[:, a:b, :b], out=scores)
            output[:, a:b] = scores @ scaled_v[:, :b]
        ctx.save_for_backward(q, k, scaled_v, keep, output, *weights)
        ctx.shape, ctx.factor = (B, H, T, D), factor
        return output.view(B, H, T, D)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        q, k, scaled_v, keep, output, *weights = ctx.saved_tensors
        B, H, T, D = ctx.shape
        d_output = gradients[0].reshape(B * H, T, D)
        row_sums = (d_output * output).sum(dim=-1, keepdim=True)  # (B H, T, 1)
        dq, dk, dv = q.new_empty(q.shape), k.new_zeros(k.shape), k.new_zeros(k.shape)
        for (a, b), p in zip(_pieces(T), weights, strict=True):
            dropped = p * keep[:, a:b, :b]
            dv[:, :b].baddbmm_(dropped.mT, d_output[:, a:b], alpha=ctx.factor)
            d_dropped = d_output[:, a:b] @ scaled_v[:, :b].mT
            d_scores = dropped.mul_(d_dropped).addcmul_(p, row_sums[:, a:b], value=-1)
            dq[:, a:b] = (d_scores @ k[:, :b]).mul_(1 / math.sqrt(D))
            dk[:, :b].baddbmm_(d_scores.mT, q[:, a:b], alpha=1 / math.sqrt(D))
        return dq.view(B, H, T, D), dk.view(B, H, T, D), dv.view(B, H, T, D), None


def _pieces(length: int) -> list[tuple[int, int]]:
    """Return the first and the one past the last query of each piece."""
    step = -(-length // _PIECES)
    return [(a, min(a + step, length)) for a in range(0, length, step)]


def dropped_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    dropout: float,
) -> Float[Tensor, "B H T D"]:
    """Attend causally with dropout; see `DroppedAttention`.

    Args:
        q: float32 queries on a CPU.
        k: keys, as many as queries.
        v: values.
        dropout: probability above 0, as `model.dropout.dropout` takes it.
    """
    return DroppedAttention.apply(q, k, v, dropout)  # pyright: ignore[reportReturnType]
