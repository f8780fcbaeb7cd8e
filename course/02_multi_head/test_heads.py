"""Module 02, what is promised: how heads differ, and what each is worth."""

from __future__ import annotations

import math
from collections.abc import Callable

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

LN_2 = math.log(2)
PAIRS = "heads heads"


# head_divergence


def causal_weights(B: int, H: int, T: int, seed: int = 0) -> Tensor:
    hidden = torch.ones(T, T).triu(1).bool()
    return torch.softmax((2 * draw(B, H, T, T, seed=seed)).masked_fill(hidden, -torch.inf), dim=-1)


def divergence_in_loops(weights: Tensor) -> Tensor:
    """Return the mean of (KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2, number by number."""
    B, H, n_queries, _ = weights.shape

    def kl(p: list[float], m: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(p, m, strict=True) if x > 0)

    table = torch.zeros(H, H, dtype=torch.float64)
    for a in range(H):
        for b in range(H):
            for i in range(B):
                for row in range(n_queries):
                    p, q = weights[i, a, row].tolist(), weights[i, b, row].tolist()
                    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
                    table[a, b] += (kl(p, m) + kl(q, m)) / 2 / (B * n_queries)
    return table


def test_head_divergence__is_zero_for_equal_heads_and_ln_2_for_heads_apart():
    weights = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]]])
    wanted = torch.tensor([[0.0, LN_2, 0.0], [LN_2, 0.0, LN_2], [0.0, LN_2, 0.0]])
    expect_equal(
        attention.head_divergence(weights),
        wanted,
        "head_divergence of one head that looks at key 1 between two that look at key 0",
        dims=PAIRS,
    )


def test_head_divergence__is_between_for_heads_that_share_some_keys():
    weights = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]]]])
    js = -0.75 * math.log(0.75) - 0.25 * math.log(0.25) - LN_2 / 2
    wanted = torch.tensor([[0.0, js], [js, 0.0]])
    got = attention.head_divergence(weights)
    expect_equal(got, wanted, "head_divergence of [1, 0] and [1/2, 1/2]", dims=PAIRS)


def test_head_divergence__is_the_mean_over_queries_and_sequences():
    alike, apart = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    head_0 = [alike, apart]  # two sequences of two queries
    head_1 = [alike, alike]
    weights = torch.tensor([head_0, head_1]).transpose(0, 1)  # they differ in 1 of 4 rows
    wanted = torch.tensor([[0.0, LN_2 / 4], [LN_2 / 4, 0.0]])
    got = attention.head_divergence(weights)
    expect_equal(
        got, wanted, "head_divergence of two heads that are apart in 1 of 4 rows", dims=PAIRS
    )


def test_head_divergence__compares_queries_before_it_averages():
    swap = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    wanted = torch.tensor([[0.0, LN_2], [LN_2, 0.0]])
    for weights, over in [(swap, "queries"), (swap.permute(2, 1, 0, 3), "sequences")]:
        expect_equal(
            attention.head_divergence(weights),
            wanted,
            f"head_divergence of heads whose mean over the {over} is the same",
            dims=PAIRS,
            note="Compare row by row; the mean is taken of the divergences.",
        )


def test_head_divergence__is_what_loops_over_single_numbers_give():
    for B, H, T in [(2, 3, 4), (3, 2, 5), (1, 4, 2), (3, 3, 3)]:
        weights = causal_weights(B, H, T, seed=H)
        expect_equal(
            attention.head_divergence(weights),
            divergence_in_loops(weights).float(),
            f"head_divergence of {H} heads over {B} sequences of {T}",
            dims=PAIRS,
        )


def test_head_divergence__takes_fewer_queries_than_keys_and_a_single_head():
    weights = torch.softmax(draw(2, 3, 2, 7), dim=-1)
    expect_equal(
        attention.head_divergence(weights),
        divergence_in_loops(weights).float(),
        "head_divergence for 2 queries and 7 keys",
        dims=PAIRS,
    )
    got = attention.head_divergence(causal_weights(2, 1, 3))
    expect_equal(got, torch.zeros(1, 1), "head_divergence of one head", dims=PAIRS)


def test_head_divergence__keeps_the_dtype_and_its_input():
    weights = causal_weights(2, 3, 4).double()
    before = weights.clone()
    got = attention.head_divergence(weights)
    wanted = divergence_in_loops(before)
    expect_equal(got, wanted, "head_divergence in float64", dims=PAIRS, tolerance=1e-6)
    expect_unchanged(before, weights, "weights")


# head_contributions


def contributions_in_loops(heads: Tensor, o_weight: Tensor) -> Tensor:
    B, H, T, D = heads.shape
    C = o_weight.shape[0]
    terms = torch.zeros(B, H, T, C, dtype=heads.dtype)
    for h in range(H):
        for c in range(C):
            for d in range(D):
                terms[:, h, :, c] += heads[:, h, :, d] * o_weight[c, h * D + d]
    return terms


def test_head_contributions__multiplies_each_head_with_its_own_columns():
    heads, o_weight = torch.tensor([[[[2.0]], [[3.0]]]]), torch.tensor([[10.0, 100.0]])
    wanted = torch.tensor([[[[20.0]], [[300.0]]]])
    got = attention.head_contributions(heads, o_weight)
    expect_equal(got, wanted, "head_contributions of the numbers 2 and 3", dims="B H T C")


def test_head_contributions__has_a_vector_for_each_head_and_token():
    for B, H, T, D, C in [(2, 3, 5, 4, 12), (3, 2, 4, 5, 7), (1, 4, 2, 1, 3)]:
        got = attention.head_contributions(draw(B, H, T, D), draw(C, H * D))
        expect_shape(got, (B, H, T, C), f"head_contributions of ({B}, {H}, {T}, {D})", "B H T C")


def test_head_contributions__adds_up_to_the_output_of_the_projection():
    for B, H, T, D, C in [(2, 3, 5, 4, 12), (3, 2, 4, 5, 7), (2, 3, 3, 3, 9), (1, 1, 2, 4, 4)]:
        heads = draw(B, H, T, D, dtype=torch.float64)
        o_weight = draw(C, H * D, seed=1, dtype=torch.float64)
        merged = torch.cat([heads[:, h] for h in range(H)], dim=-1)
        got = attention.head_contributions(heads.clone(), o_weight.clone())
        expect_shape(got, (B, H, T, C), "head_contributions", "B H T C")
        expect_equal(
            got.sum(dim=1),
            F.linear(merged, o_weight),
            f"the sum of the contributions of {H} heads",
            dims="B T C",
            tolerance=1e-9,
        )


def test_head_contributions__is_for_each_head_what_loops_give():
    for B, H, T, D, C in [(2, 3, 5, 4, 12), (3, 2, 4, 5, 7), (2, 3, 3, 3, 9), (2, 2, 2, 2, 4)]:
        heads, o_weight = draw(B, H, T, D), draw(C, H * D, seed=1)
        expect_equal(
            attention.head_contributions(heads.clone(), o_weight.clone()),
            contributions_in_loops(heads, o_weight),
            f"head_contributions of {H} heads of width {D}",
            dims="B H T C",
        )


def test_head_contributions__leaves_nothing_of_a_silent_head_to_the_others():
    heads, o_weight = draw(2, 3, 4, 2), draw(6, 6, seed=1)
    heads[:, 1] = 0
    got = attention.head_contributions(heads, o_weight)
    expect_shape(got, (2, 3, 4, 6), "head_contributions", "B H T C")
    expect_equal(
        got[:, 1], torch.zeros(2, 4, 6), "the contribution of a head that found 0", dims="B T C"
    )


def test_head_contributions__keeps_the_dtype_and_its_inputs():
    heads = draw(2, 3, 4, 2, dtype=torch.float64)
    o_weight = draw(5, 6, seed=1, dtype=torch.float64)
    before = heads.clone(), o_weight.clone()
    got = attention.head_contributions(heads, o_weight)
    wanted = contributions_in_loops(*before)
    expect_equal(got, wanted, "head_contributions in float64", dims="B H T C", tolerance=1e-9)
    expect_unchanged(before[0], heads, "heads")
    expect_unchanged(before[1], o_weight, "o_weight")
    half = [x.bfloat16() for x in before]
    got = attention.head_contributions(*half)
    wanted = contributions_in_loops(*[x.double() for x in half]).bfloat16()
    expect_equal(got, wanted, "head_contributions in bfloat16", dims="B H T C", tolerance=5e-2)


def test_head_contributions__takes_heads_that_lie_in_memory_in_any_order():
    heads, o_weight = draw(2, 4, 3, 2).transpose(1, 2), draw(6, 5, seed=1).T
    got = attention.head_contributions(heads, o_weight)
    wanted = contributions_in_loops(heads, o_weight)
    expect_equal(got, wanted, "head_contributions of views", dims="B H T C")


def test_head_contributions__lets_gradients_through():
    def wanted(heads: Tensor, o_weight: Tensor) -> Tensor:
        D = heads.shape[-1]
        parts = [
            F.linear(heads[:, h], o_weight[:, h * D : (h + 1) * D]) for h in range(heads.shape[1])
        ]
        return torch.stack(parts, dim=1)

    inputs = [
        draw(2, 3, 4, 2, dtype=torch.float64),
        draw(5, 6, seed=1, dtype=torch.float64),
    ]
    expect_gradients(
        lambda heads, o_weight: attention.head_contributions(heads, o_weight),
        wanted,
        inputs,
        "head_contributions",
    )


# head_importance


def expect_importance(
    loss_of: Callable[[Tensor], Tensor], wanted: list[float], of: str, note: str = ""
) -> None:
    got = attention.head_importance(loss_of, len(wanted))
    expect_equal(got, torch.tensor(wanted), f"head_importance of {of}", dims="heads", note=note)


def test_head_importance__is_what_each_head_takes_off_the_loss():
    expect_importance(
        lambda gates: 5 - 2 * gates[0] + 1 * gates[1],
        [2.0, -1.0],
        "a loss that head 0 lowers by 2 and head 1 raises by 1",
    )
    worth = torch.tensor([3.0, 0.0, 1.0, -2.0])
    expect_importance(lambda gates: 10 - gates @ worth, worth.tolist(), "four heads")


def test_head_importance__silences_one_head_and_leaves_the_others_open():
    expect_importance(
        lambda gates: 8 - 8 * gates.prod(),
        [8.0, 8.0, 8.0],
        "three heads that are only of use together",
    )
    expect_importance(
        lambda gates: 1 - gates.amax(),
        [0.0, 0.0],
        "two heads of which either does the work",
        "With one of them silenced, the other is still there.",
    )


def test_head_importance__asks_with_gates_of_one_and_of_zero():
    asked: list[Tensor] = []

    def loss_of(gates: Tensor) -> Tensor:
        expect_shape(gates, (3,), "what loss_of is given, the gates,", "heads")
        expect(gates.dtype == torch.float32, f"The gates should be float32, and are {gates.dtype}.")
        asked.append(gates)  # kept as they are: later changes would show
        return (gates * torch.tensor([1.0, 2.0, 4.0])).sum()

    attention.head_importance(loss_of, 3)
    rows = {tuple(gates.tolist()) for gates in asked}
    wanted = {(1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)}
    strange = rows - wanted
    expect(
        rows == wanted,
        "With three heads, the gates to ask with are all open, and each one closed alone. "
        + (f"Yours were also {sorted(strange)}." if strange else "Some were not asked for.")
        + " (A tensor that is handed out and then written to changes what was handed out.)",
    )


def test_head_importance__keeps_the_dtype_of_the_losses():
    worth = draw(3, seed=5, dtype=torch.float64)
    got = attention.head_importance(lambda gates: 2 - gates.double() @ worth, 3)
    expect_equal(got, worth, "head_importance where losses are float64", dims="heads")


def test_head_importance__looks_at_each_of_many_heads():
    worth = draw(9, seed=4)
    expect_importance(
        lambda gates: (gates * worth).sum() ** 2 / 4,
        [((worth.sum() - w) ** 2 / 4 - worth.sum() ** 2 / 4).item() for w in worth],
        "nine heads that depend on each other",
    )
    expect_importance(lambda gates: 3 - 3 * gates[0], [3.0], "a single head")


def test_head_importance__finds_the_head_that_a_layer_needs():
    heads, o_weight = draw(2, 3, 4, 2, seed=1), draw(6, 6, seed=2)
    heads[:, 1] *= 5
    wanted = F.linear(torch.cat([heads[:, h] for h in range(3)], dim=-1), o_weight)

    def loss_of(gates: Tensor) -> Tensor:
        kept = heads * gates[:, None, None]
        merged = torch.cat([kept[:, h] for h in range(3)], dim=-1)
        return (F.linear(merged, o_weight) - wanted).square().mean()

    rises = []
    for h in range(3):
        gates = torch.tensor([float(other != h) for other in range(3)])
        rises.append(loss_of(gates).item())
    expect_importance(loss_of, rises, "a small layer with its own output as the target")
