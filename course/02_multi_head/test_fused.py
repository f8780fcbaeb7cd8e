"""Module 02, what is promised: attention by the fused operation."""

from __future__ import annotations

import math
from typing import Any

import torch
from my_transformer import attention
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tiny_transformer.course.devices import expect_follows_device
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

OUTPUT = "B H queries D"
INF = float("inf")


def weights_by_formula(q: Tensor, k: Tensor) -> Tensor:
    """Return the weights of causal attention, the queries last, row by row and in float64."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    weights = torch.zeros(*q.shape[:-1], n_keys, dtype=torch.float64)
    for i in range(n_queries):
        seen = n_keys - n_queries + i + 1
        scores = (k[..., :seen, :].double() @ q[..., i, :, None].double()).squeeze(-1)
        weights[..., i, :seen] = torch.softmax(scores / math.sqrt(q.shape[-1]), dim=-1)
    return weights


def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (weights_by_formula(q, k) @ v.double()).to(v.dtype)


def some(B: int, H: int, Tq: int, Tk: int, D: int, **kwargs: Any) -> list[Tensor]:
    sizes = [(1, Tq), (2, Tk), (3, Tk)]
    return [draw(B, H, T, D, seed=seed, **kwargs) for seed, T in sizes]


def expect_output(got: Any, wanted: Tensor, what: str, tolerance: float = 1e-5) -> None:
    expect(
        isinstance(got, Tensor),
        f"fused_attention should return one tensor, the output, and returns a "
        f"{type(got).__name__}.",
    )
    expect_equal(got, wanted, f"the output {what}", dims=OUTPUT, tolerance=tolerance)


def test_fused_attention__averages_plainly_over_the_past_where_scores_are_equal():
    zeros, v = torch.zeros(1, 1, 3, 2), torch.tensor([[[[3.0, 0.0], [6.0, 3.0], [9.0, 9.0]]]])
    wanted = torch.tensor([[[[3.0, 0.0], [4.5, 1.5], [6.0, 4.0]]]])
    expect_output(attention.fused_attention(zeros, zeros, v), wanted, "where all scores are 0")


def test_fused_attention__gives_what_the_formula_gives_row_by_row():
    for B, H, T, D in [(2, 3, 5, 4), (1, 2, 1, 3), (3, 1, 4, 4), (2, 2, 9, 16)]:
        q, k, v = (2 * x for x in some(B, H, T, T, D))
        wanted = expected(q, k, v)
        expect_output(attention.fused_attention(q, k, v), wanted, f"for {T} tokens of width {D}")


def test_fused_attention__takes_the_queries_to_be_the_last_positions():
    for n_queries, n_keys in [(1, 6), (3, 6), (5, 6), (2, 3)]:
        q, k, v = some(2, 2, n_queries, n_keys, 4)
        got = attention.fused_attention(q, k, v)
        what = f"for {n_queries} queries and {n_keys} keys"
        expect_output(got, expected(q, k, v), what)


def test_fused_attention__stands_large_scores():
    q, k, v = some(1, 2, 5, 5, 8)
    got = attention.fused_attention(100 * q, 100 * k, v)
    expect_output(got, expected(100 * q, 100 * k, v), "for large scores", 1e-4)


def test_fused_attention__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 4e-2)]:
        for n_queries in (4, 2):
            q, k, v = some(2, 2, n_queries, 4, 8, dtype=dtype)
            before = [x.clone() for x in (q, k, v)]
            got = attention.fused_attention(q, k, v)
            expect_output(got, expected(*before), f"in {dtype}", tolerance)
            for name, old, new in zip("qkv", before, (q, k, v), strict=True):
                expect_unchanged(old, new, name)


class _Calls(TorchFunctionMode):
    """Counts calls of the fused operation."""

    def __init__(self) -> None:
        super().__init__()
        self.n_fused = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n_fused += "scaled_dot_product" in str(getattr(func, "__name__", func))
        return func(*args, **(kwargs or {}))


def test_fused_attention__calls_the_fused_operation():
    for n_queries in (4, 2):
        q, k, v = some(1, 2, n_queries, 4, 3)
        with _Calls() as calls:
            attention.fused_attention(q, k, v)
        expect(
            calls.n_fused,
            f"For {n_queries} queries and 4 keys, fused_attention does not call "
            "torch.nn.functional.scaled_dot_product_attention.",
        )


def test_fused_attention__stays_on_the_device_of_its_inputs():
    for n_queries in (4, 2):
        q, k, v = some(1, 1, n_queries, 4, 8)
        expect_follows_device(
            lambda q=q, k=k, v=v: attention.fused_attention(q, k, v), [q, k, v], "fused_attention"
        )


def test_fused_attention__lets_gradients_through():
    for n_queries in (4, 2):

        def wanted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            hidden = torch.ones(scores.shape[-2:]).triu(1 + k.shape[-2] - q.shape[-2]).bool()
            return torch.softmax(scores.masked_fill(hidden, -INF), dim=-1) @ v

        inputs = some(2, 2, n_queries, 4, 5, dtype=torch.float64)
        expect_gradients(
            lambda q, k, v: attention.fused_attention(q, k, v), wanted, inputs, "fused_attention"
        )


def dropped_weights(dropout: float, n_queries: int) -> tuple[Tensor, Tensor]:
    """Return the weights that the values were averaged with, and those without dropout."""
    n = 16
    q, k = draw(8, 4, n_queries, n, seed=1), draw(8, 4, n, n, seed=2)
    v = torch.eye(n).expand(8, 4, n, n).clone()  # so that the output is the weights
    output = attention.fused_attention(q.clone(), k.clone(), v, dropout)
    return output, weights_by_formula(q, k).float()


def test_fused_attention__drops_weights_and_enlarges_the_others():
    for dropout, n_queries in [(0.5, 16), (0.25, 16), (0.5, 4)]:
        output, plain = dropped_weights(dropout, n_queries)
        dropped = output.abs() < 1e-12
        wanted = torch.where(dropped, torch.zeros_like(plain), plain / (1 - dropout))
        what = f"what is left of the weights of {n_queries} queries, with dropout={dropout},"
        expect_equal(
            output,
            wanted,
            what,
            dims="B H queries keys",
            note="Those that stay are divided by 1 - dropout.",
        )
        visible = plain > 1e-6
        share = (dropped & visible).sum().item() / visible.sum().item()
        expect(
            abs(share - dropout) < 0.06,
            f"With dropout={dropout} and {n_queries} queries, {share:.0%} of the weights were "
            "dropped.",
        )


def test_fused_attention__drops_weights_and_not_outputs():
    for n_queries in (8, 3):
        q, k = draw(4, 2, n_queries, 4, seed=1), draw(4, 2, 8, 4, seed=2)
        output = attention.fused_attention(q, k, torch.ones(4, 2, 8, 4), 0.5)
        expect_equal(
            output,
            output[..., :1].expand_as(output).clone(),
            "the output where all values are 1 and dropout is 0.5",
            dims=OUTPUT,
            note="A dropped weight changes all numbers of an output alike: hand the dropout to "
            "the operation.",
        )
