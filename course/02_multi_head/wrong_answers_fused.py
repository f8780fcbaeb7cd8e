"""Module 02, wrong answers: attention by the fused operation."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite


@probes("fused_attention")
def _(f: Any) -> list[Any]:
    def some(B: int, H: int, Tq: int, Tk: int, D: int, **kwargs: Any) -> list[Tensor]:
        sizes = [(1, Tq), (2, Tk), (3, Tk)]
        return [draw(B, H, T, D, seed=seed, **kwargs) for seed, T in sizes]

    def averages_of(dropout: float, n_queries: int) -> Tensor:
        """Return the output for values that are all 1: sums of dropped weights."""
        q, k, _ = some(8, 4, n_queries, 16, 8)
        return f(q, k, torch.ones(8, 4, 16, 4), dropout)

    def channels_alike() -> bool:
        sums = averages_of(0.5, 16)
        return bool((sums - sums[..., :1]).abs().max() < 1e-5)

    def kinds(n_queries: int) -> list[float]:
        """Return what the first query's only weight may become."""
        q, k, _ = some(200, 1, n_queries, n_queries, 4)
        output = f(q, k, torch.ones(200, 1, n_queries, 1), 0.25)[:, 0, 0]
        return (output * 100).round().unique().tolist()[:4]

    def gradient(n_queries: int) -> Any:
        leaves = [x.requires_grad_() for x in some(1, 2, n_queries, 4, 3, dtype=torch.float64)]
        y = f(*leaves)
        if not y.requires_grad:
            return "none"
        y.square().sum().backward()
        return [leaf.grad if leaf.grad is not None else "none" for leaf in leaves]

    def calls() -> int:
        from torch.overrides import TorchFunctionMode

        class Count(TorchFunctionMode):
            n = 0

            def __torch_function__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                Count.n += "scaled_dot_product" in str(getattr(func, "__name__", func))
                return func(*args, **(kwargs or {}))

        with Count():
            f(*some(1, 1, 4, 4, 2))
        return Count.n

    def device(n_queries: int) -> bool:
        from tiny_transformer.course.devices import expect_follows_device

        q, k, v = some(1, 1, n_queries, 4, 8)
        expect_follows_device(lambda: f(q, k, v), [q, k, v], "")
        return True

    return [
        lambda: f(*some(2, 3, 5, 5, 4)),
        lambda: f(*some(2, 3, 1, 1, 4)),
        lambda: f(*some(2, 2, 4, 4, 4)),
        lambda: f(*some(2, 2, 3, 6, 4)),
        lambda: f(*some(2, 2, 1, 6, 4)),
        lambda: f(*some(1, 1, 5, 6, 9)),
        lambda: f(*[100 * x for x in some(1, 2, 5, 5, 8)[:2]], some(1, 2, 5, 5, 8)[2]),
        lambda: f(*some(2, 2, 4, 4, 4, dtype=torch.float64)),
        lambda: f(*some(2, 2, 2, 4, 4, dtype=torch.float64)),
        lambda: f(*some(2, 2, 4, 4, 8, dtype=torch.bfloat16)),
        lambda: changed(f, *some(2, 2, 4, 4, 4)),
        lambda: kinds(2),
        lambda: round(float((averages_of(0.5, 16)[:, :, 0] == 0).float().mean()) * 4),
        lambda: round(float((averages_of(0.5, 1) > 1e-6).float().mean()) * 4),
        channels_alike,
        lambda: bool((averages_of(0.5, 4) - 1).abs().max() > 0.01),
        lambda: gradient(4),
        lambda: gradient(2),
        calls,
        lambda: device(4),
        lambda: device(2),
    ]


def fused(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, **kwargs: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, **kwargs)


def mask_of(q: Tensor, k: Tensor, moved: int = 0) -> Tensor:
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=q.device)
    return ones.tril(n_keys - n_queries + moved)


@mutant(
    "fused_attention",
    "`is_causal=True` takes the queries to be the first positions: with fewer queries than keys "
    "the triangle starts at the top left. Give it your `causal_mask` then.",
)
def always_is_causal(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, is_causal=True)


@mutant("fused_attention", "There is no mask: your queries see what comes after them.")
def never_causal(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout)


@mutant(
    "fused_attention",
    "With as many queries as keys it is right, and with fewer there is no mask at all: only a "
    "single query, the last, needs none.",
)
def causal_for_squares_only(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, is_causal=q.shape[-2] == k.shape[-2])


@mutant(
    "fused_attention",
    "Your mask says what is hidden. For this operation True means that a query may look.",
)
def mask_of_what_is_hidden(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, attn_mask=~mask_of(q, k))


@mutant(
    "fused_attention",
    "Your mask is of numbers, 0 and 1, and numbers are added to the scores: they hide nothing. "
    "Give it a mask of bool.",
)
def mask_of_numbers(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, attn_mask=mask_of(q, k).to(q.dtype))


@mutant("fused_attention", "Your mask is off by one: queries see one key too many.")
def mask_one_ahead(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, attn_mask=mask_of(q, k, 1))


@mutant(
    "fused_attention",
    "A query does not see its own token in your mask: keep the diagonal.",
)
def mask_without_itself(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, attn_mask=mask_of(q, k, -1))


@mutant(
    "fused_attention",
    "You divide the queries by the root of the width, and the operation does it again: it scales "
    "by itself.",
)
def scaled_twice(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q / math.sqrt(q.shape[-1]), k, v, dropout, attn_mask=mask_of(q, k))


@mutant(
    "fused_attention",
    "You set `scale` to 1 (or multiply it away): leave it out, and it is 1 / sqrt(D).",
)
def scale_of_one(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, attn_mask=mask_of(q, k), scale=1.0)


@mutant("fused_attention", "You scale by 1 / D. The operation's own scale is 1 / sqrt(D).")
def scale_of_the_width(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, attn_mask=mask_of(q, k), scale=1 / q.shape[-1])


@mutant("fused_attention", "You leave the dropout out: hand it on as `dropout_p`.")
def without_dropout(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, attn_mask=mask_of(q, k))


@mutant(
    "fused_attention",
    "You drop numbers of the output. Weights are dropped, by the operation itself: `dropout_p`.",
)
def output_dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return F.dropout(fused(q, k, v, attn_mask=mask_of(q, k)), dropout)


@mutant(
    "fused_attention",
    "You drop numbers of the values. Weights are dropped, by the operation itself: `dropout_p`.",
)
def values_dropped(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, F.dropout(v, dropout), attn_mask=mask_of(q, k))


@mutant(
    "fused_attention",
    "You give the operation a mask and `is_causal=True` together, which it refuses, or takes for "
    "`is_causal` alone: one of them.",
)
def mask_and_is_causal(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k, v, dropout, attn_mask=mask_of(q, k), is_causal=True)


@mutant(
    "fused_attention",
    "You spell the formula out. This exercise is about "
    "`torch.nn.functional.scaled_dot_product_attention`.",
)
def the_explicit_form(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return attention.explicit_attention(q, k, v, dropout)[0]


@mutant("fused_attention", "You return a tuple. The output alone: the weights are never stored.")
def a_tuple_comes_out(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Any:
    return fused(q, k, v, dropout, attn_mask=mask_of(q, k)), None


@mutant(
    "fused_attention",
    "You transpose the keys. The operation does that by itself: k is (B, H, Tk, D).",
)
def keys_transposed(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, k.transpose(-2, -1), v, dropout, is_causal=True)


@mutant("fused_attention", "Keys and values are exchanged: q, k, v, in this order.")
def values_for_keys(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q, v, k, dropout, attn_mask=mask_of(q, k))


@mutant(
    "fused_attention",
    "Your mask stays on the CPU: make it on the device of the queries.",
)
def mask_left_on_the_cpu(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    return fused(q, k, v, dropout, attn_mask=mask)


@mutant("fused_attention", "No gradient flows back: no detach(), no torch.no_grad().")
def without_gradients(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    with torch.no_grad():
        return fused(q, k, v, dropout, attn_mask=mask_of(q, k))


@mutant("fused_attention", "You return float32 whatever comes in: keep the dtype.")
def fused_in_float32(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    return fused(q.float(), k.float(), v.float(), dropout, attn_mask=mask_of(q, k))


@rewrite("fused_attention")
def with_a_mask_always(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


@rewrite("fused_attention")
def with_a_mask_of_minus_infinity(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    hidden = q.new_full((q.shape[-2], k.shape[-2]), float("-inf"))
    added = torch.triu(hidden, diagonal=1 + k.shape[-2] - q.shape[-2])
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, added, dropout)


@rewrite("fused_attention")
def is_causal_where_it_can_be(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    if q.shape[2] == k.shape[2]:
        return fused(q, k, v, dropout, is_causal=True)
    rows = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
    return fused(q, k, v, dropout, attn_mask=torch.arange(k.shape[2], device=q.device) <= rows)
