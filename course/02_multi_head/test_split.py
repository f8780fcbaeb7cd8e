"""Module 02, what is promised: splitting and merging heads, and weights side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

HEADS = "B H T D"
SIZES = [(2, 5, 12, 3), (5, 2, 12, 4), (3, 4, 8, 1), (1, 3, 6, 6), (3, 3, 9, 3), (4, 1, 10, 2)]
"""Of batch, tokens, channels and heads."""


def labelled(B: int, T: int, C: int) -> Tensor:
    """Return tokens whose numbers say where they stand: 10000 b + 100 t + c."""
    b, t, c = torch.arange(B), torch.arange(T), torch.arange(C)
    return 10000 * b[:, None, None] + 100 * t[:, None] + c


def split_in_loops(x: Tensor, n_heads: int) -> Tensor:
    B, T, C = x.shape
    D = C // n_heads
    heads = torch.empty(B, n_heads, T, D, dtype=x.dtype)
    for b in range(B):
        for h in range(n_heads):
            for t in range(T):
                for d in range(D):
                    heads[b, h, t, d] = x[b, t, h * D + d]
    return heads


# split_heads


def test_split_heads__gives_each_head_its_own_channels_of_every_token():
    x = torch.tensor([[[0.0, 1, 2, 3], [10, 11, 12, 13]]])
    wanted = torch.tensor([[[[0.0, 1], [10, 11]], [[2, 3], [12, 13]]]])
    expect_equal(
        attention.split_heads(x, 2),
        wanted,
        "split_heads of two tokens into two heads",
        dims=HEADS,
        note="Head 0 has channels 0 and 1 of both tokens, head 1 channels 2 and 3.",
    )


def test_split_heads__has_the_shape_B_H_T_D():
    for B, T, C, H in SIZES:
        got = attention.split_heads(draw(B, T, C), H)
        expect_shape(
            got, (B, H, T, C // H), f"split_heads of ({B}, {T}, {C}) into {H} heads", HEADS
        )


def test_split_heads__puts_every_number_where_loops_put_it():
    for B, T, C, H in SIZES:
        x = labelled(B, T, C).double()
        expect_equal(
            attention.split_heads(x.clone(), H),
            split_in_loops(x, H),
            f"split_heads of ({B}, {T}, {C}) into {H} heads, numbers 10000 b + 100 t + c,",
            dims=HEADS,
            tolerance=0,
        )


def test_split_heads__takes_tokens_that_lie_in_memory_in_another_order():
    x = labelled(5, 4, 6).transpose(0, 1)  # (T, B, C) in memory, seen as (B, T, C)
    wanted = split_in_loops(x, 2)
    expect_equal(
        attention.split_heads(x, 2), wanted, "split_heads of a transposed tensor", dims=HEADS
    )


def test_split_heads__keeps_the_dtype_and_its_input():
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
        x = draw(2, 3, 4).round().to(dtype)
        before = x.clone()
        got = attention.split_heads(x, 2)
        expect_equal(got, split_in_loops(before, 2), f"split_heads in {dtype}", dims=HEADS)
        expect_unchanged(before, x, "x")


def test_split_heads__lets_gradients_through():
    def wanted(x: Tensor) -> Tensor:
        return torch.stack(x.chunk(3, dim=-1), dim=1)

    inputs = [draw(2, 4, 6, dtype=torch.float64)]
    expect_gradients(lambda x: attention.split_heads(x, 3), wanted, inputs, "split_heads")


# merge_heads


def merged_in_loops(heads: Tensor) -> Tensor:
    B, H, T, D = heads.shape
    y = torch.empty(B, T, H * D, dtype=heads.dtype)
    for h in range(H):
        for t in range(T):
            for d in range(D):
                y[:, t, h * D + d] = heads[:, h, t, d]
    return y


def test_merge_heads__puts_the_heads_of_a_token_side_by_side():
    heads = torch.tensor([[[[0.0, 1], [10, 11]], [[2, 3], [12, 13]]]])
    wanted = torch.tensor([[[0.0, 1, 2, 3], [10, 11, 12, 13]]])
    expect_equal(
        attention.merge_heads(heads),
        wanted,
        "merge_heads of two heads of two tokens",
        dims="B T C",
        note="Token 0 has what both heads found for it, head 0 first.",
    )


def test_merge_heads__has_the_shape_B_T_C():
    for B, T, C, H in SIZES:
        got = attention.merge_heads(draw(B, H, T, C // H))
        expect_shape(got, (B, T, C), f"merge_heads of ({B}, {H}, {T}, {C // H})", "B T C")


def test_merge_heads__puts_every_number_where_loops_put_it():
    for B, T, C, H in SIZES:
        heads = torch.arange(B * T * C, dtype=torch.float64).view(B, H, T, C // H)
        expect_equal(
            attention.merge_heads(heads.clone()),
            merged_in_loops(heads),
            f"merge_heads of ({B}, {H}, {T}, {C // H})",
            dims="B T C",
            tolerance=0,
        )


def test_merge_heads__is_the_way_back_from_splitting():
    for B, T, C, H in SIZES:
        x = labelled(B, T, C)
        expect_equal(
            attention.merge_heads(split_in_loops(x, H)),
            x,
            f"merge_heads of ({B}, {T}, {C}) that was split into {H} heads",
            dims="B T C",
            tolerance=0,
        )


def test_merge_heads__takes_heads_that_lie_in_memory_in_any_order():
    heads = draw(2, 4, 3, 5).transpose(1, 2)  # (B, T, H, D) in memory, seen as (B, H, T, D)
    wanted = merged_in_loops(heads)
    expect_equal(attention.merge_heads(heads), wanted, "merge_heads of a view", dims="B T C")


def test_merge_heads__keeps_the_dtype_and_its_input():
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        heads = (9 * draw(2, 3, 4, 2)).round().to(dtype)
        before = heads.clone()
        got = attention.merge_heads(heads)
        expect_equal(got, merged_in_loops(before), f"merge_heads in {dtype}", dims="B T C")
        expect_unchanged(before, heads, "heads")


def test_merge_heads__lets_gradients_through():
    def wanted(heads: Tensor) -> Tensor:
        return torch.cat(list(heads.unbind(dim=1)), dim=-1)

    inputs = [draw(2, 3, 4, 2, dtype=torch.float64)]
    expect_gradients(lambda x: attention.merge_heads(x), wanted, inputs, "merge_heads")


# join_head_weights


def test_join_head_weights__puts_the_rows_of_one_head_after_those_of_another():
    weights = [torch.tensor([[1.0, 2, 3]]), torch.tensor([[4.0, 5, 6]])]
    wanted = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    got = attention.join_head_weights(weights)
    expect_equal(got, wanted, "join_head_weights of two heads of one row", dims="H*D C")


def test_join_head_weights__has_a_row_for_each_number_that_comes_out():
    for H, D, C in [(2, 3, 4), (3, 2, 6), (1, 4, 5), (4, 1, 2), (3, 3, 3)]:
        got = attention.join_head_weights([draw(D, C, seed=h) for h in range(H)])
        expect_shape(got, (H * D, C), f"join_head_weights of {H} matrices ({D}, {C})", "H*D C")


def test_join_head_weights__makes_the_numbers_that_the_heads_make_by_themselves():
    for H, D, C in [(2, 3, 4), (3, 2, 6), (3, 3, 3), (1, 4, 5), (4, 4, 4)]:
        x = draw(2, 5, C, dtype=torch.float64)
        weights = [draw(D, C, seed=h + 1, dtype=torch.float64) for h in range(H)]
        joined = attention.join_head_weights([w.clone() for w in weights])
        expect_shape(joined, (H * D, C), f"join_head_weights of {H} matrices ({D}, {C})", "H*D C")
        heads = split_in_loops(F.linear(x, joined), H)
        for h, weight in enumerate(weights):
            expect_equal(
                heads[:, h],
                F.linear(x, weight),
                f"head {h} of {H}, made by the joined weight and split off,",
                dims="B T D",
                note="Rows h D to h D + D - 1 of the weight make head h.",
            )


def test_join_head_weights__takes_a_tuple_and_keeps_the_dtype_and_its_inputs():
    for dtype in (torch.float64, torch.bfloat16):
        weights = tuple(draw(2, 3, seed=h, dtype=dtype) for h in range(3))
        before = [w.clone() for w in weights]
        got = attention.join_head_weights(weights)
        wanted = torch.stack([before[r // 2][r % 2] for r in range(6)])
        expect_equal(got, wanted, f"join_head_weights in {dtype}", dims="H*D C")
        for h, (old, new) in enumerate(zip(before, weights, strict=True)):
            expect_unchanged(old, new, f"the weight of head {h}")


def test_join_head_weights__lets_gradients_through():
    inputs = [draw(2, 3, seed=h, dtype=torch.float64) for h in range(3)]
    expect_gradients(
        lambda *w: attention.join_head_weights(list(w)),
        lambda *w: torch.stack([w[r // 2][r % 2] for r in range(6)]),
        inputs,
        "join_head_weights",
    )


# repeat_kv_heads


def repeated_in_loops(kv: Tensor, n_heads: int) -> Tensor:
    group = n_heads // kv.shape[1]
    return torch.stack([kv[:, h // group] for h in range(n_heads)], dim=1)


KV_SIZES = [(2, 3, 5, 4, 6), (3, 2, 4, 5, 6), (2, 1, 5, 3, 4), (1, 4, 3, 2, 4), (2, 2, 2, 2, 4)]
"""Of batch, key-value heads, tokens, width, and query heads."""


def test_repeat_kv_heads__lets_neighbours_share():
    kv = torch.tensor([[[[5.0]], [[7.0]]]])
    wanted = torch.tensor([[[[5.0]], [[5.0]], [[7.0]], [[7.0]]]])
    expect_equal(
        attention.repeat_kv_heads(kv, 4),
        wanted,
        "repeat_kv_heads of two heads for four",
        dims=HEADS,
        note="Query heads 0 and 1 share key head 0, and 2 and 3 share key head 1.",
    )


def test_repeat_kv_heads__has_a_head_for_each_query_head():
    for B, G, T, D, H in KV_SIZES:
        got = attention.repeat_kv_heads(draw(B, G, T, D), H)
        expect_shape(got, (B, H, T, D), f"repeat_kv_heads of ({B}, {G}, {T}, {D}) for {H}", HEADS)


def test_repeat_kv_heads__takes_head_h_over_the_size_of_a_group():
    for B, G, T, D, H in KV_SIZES:
        kv = draw(B, G, T, D, dtype=torch.float64)
        expect_equal(
            attention.repeat_kv_heads(kv.clone(), H),
            repeated_in_loops(kv, H),
            f"repeat_kv_heads of {G} heads for {H}",
            dims=HEADS,
            tolerance=0,
        )


def test_repeat_kv_heads__changes_nothing_where_there_is_a_head_for_each():
    kv = draw(2, 3, 4, 5)
    expect_equal(
        attention.repeat_kv_heads(kv.clone(), 3), kv, "repeat_kv_heads of 3 for 3", dims=HEADS
    )


def test_repeat_kv_heads__keeps_the_dtype_and_its_input():
    for dtype in (torch.float64, torch.bfloat16):
        kv = draw(2, 2, 3, 4, dtype=dtype)
        before = kv.clone()
        got = attention.repeat_kv_heads(kv, 6)
        expect_equal(got, repeated_in_loops(before, 6), f"repeat_kv_heads in {dtype}", dims=HEADS)
        expect_unchanged(before, kv, "kv")


def test_repeat_kv_heads__takes_heads_that_lie_in_memory_in_any_order():
    kv = draw(2, 4, 3, 5).transpose(1, 2)
    wanted = repeated_in_loops(kv, 6)
    expect_equal(attention.repeat_kv_heads(kv, 6), wanted, "repeat_kv_heads of a view", dims=HEADS)


def test_repeat_kv_heads__adds_up_the_gradients_of_those_who_share():
    kv = draw(1, 2, 2, 2, dtype=torch.float64).requires_grad_()
    repeated = attention.repeat_kv_heads(kv, 6)
    expect(repeated.requires_grad, "No gradient flows back through repeat_kv_heads.")
    repeated.sum().backward()
    expect_equal(
        kv.grad,
        torch.full_like(kv, 3.0).detach(),
        "the gradient of kv for the sum of 6 heads made of 2",
        dims=HEADS,
        note="Each key-value head serves three.",
    )
