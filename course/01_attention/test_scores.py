"""Module 01, what is promised: masks, the scale, and three tokens by hand."""

from __future__ import annotations

import math

import torch
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.devices import (
    is_placed,
)
from tiny_transformer.course.expect import (
    expect,
    expect_equal,
    expect_gradients,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

INF = float("inf")
SCORES = "queries keys"
HEADS = "B H queries keys"
LOG_2, LOG_3, LOG_4, LOG_5 = (math.log(n) for n in (2, 3, 4, 5))


# causal_mask


def test_causal_mask__shows_each_token_itself_and_the_past():
    wanted = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    expect_equal(attention.causal_mask(3, 3), wanted, "causal_mask(3, 3)", dims=SCORES)


def test_causal_mask__takes_the_queries_to_be_the_last_positions():
    wanted = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    expect_equal(attention.causal_mask(2, 5), wanted, "causal_mask(2, 5)", dims=SCORES)
    wanted = torch.ones(1, 4).bool()
    expect_equal(attention.causal_mask(1, 4), wanted, "causal_mask(1, 4)", dims=SCORES)


def test_causal_mask__holds_for_every_size():
    for n_queries, n_keys in [(1, 1), (2, 2), (7, 7), (4, 6), (3, 11)]:
        past = n_keys - n_queries
        wanted = torch.tensor([[j <= past + i for j in range(n_keys)] for i in range(n_queries)])
        got = attention.causal_mask(n_queries, n_keys)
        expect_equal(got, wanted, f"causal_mask({n_queries}, {n_keys})", dims=SCORES)


def test_causal_mask__is_made_on_the_device_asked_for():
    expect(
        is_placed(lambda: attention.causal_mask(2, 3, device=torch.device("cpu"))),
        "causal_mask makes its tensor without saying where, so it is on the CPU whatever "
        "`device` is: pass it on, as in torch.ones(..., device=device).",
    )


# dot_product_variance


def test_dot_product_variance__is_the_width_for_unit_vectors():
    for d_k in (1, 4, 64, 1000):
        got = attention.dot_product_variance(d_k)
        expect_equal(got, float(d_k), f"dot_product_variance({d_k})")


def test_dot_product_variance__depends_on_both_deviations():
    for d_k, q_std, k_std, wanted in [(1, 2.0, 1.0, 4.0), (1, 1.0, 3.0, 9.0), (8, 0.5, 3.0, 18.0)]:
        got = attention.dot_product_variance(d_k, q_std, k_std)
        expect_equal(got, wanted, f"dot_product_variance({d_k}, {q_std}, {k_std})")


def test_dot_product_variance__is_what_a_hundred_thousand_draws_show():
    for d_k, q_std, k_std in [(2, 1.0, 1.0), (16, 2.0, 0.5), (32, 0.5, 0.3)]:
        q, k = q_std * draw(100_000, d_k, seed=1), k_std * draw(100_000, d_k, seed=2)
        measured = (q * k).sum(dim=1).var().item()
        got = attention.dot_product_variance(d_k, q_std, k_std)
        expect_equal(
            got / measured,
            1.0,
            f"dot_product_variance({d_k}, {q_std}, {k_std}) as a "
            f"multiple of the variance of 100000 draws, {measured:.3f},",
            tolerance=0.05,
        )


# scaled_scores


def test_scaled_scores__divides_by_the_root_of_the_width():
    q = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    k = torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 5.0, 5.0, 5.0]])
    got = attention.scaled_scores(q, k)
    expect_equal(got, torch.tensor([[1.0, 3.0]]), "scaled_scores(q, k) of width 4", dims=SCORES)


def test_scaled_scores__uses_the_width_of_a_vector_and_no_other_size():
    for n_queries, n_keys, width in [(1, 1, 9), (2, 5, 3), (4, 4, 2), (5, 2, 7)]:
        q, k = draw(n_queries, width, seed=1), draw(n_keys, width, seed=2)
        got = attention.scaled_scores(q, k)
        wanted = q @ k.T / math.sqrt(width)
        what = f"the table of scores of {n_queries} queries and {n_keys} keys, {width} wide,"
        expect_equal(got, wanted, what, dims=SCORES)


def test_scaled_scores__have_a_variance_near_one_at_every_width():
    for width in (4, 64, 256):
        q, k = draw(300, width, seed=1), draw(300, width, seed=2)
        got = attention.scaled_scores(q, k).var().item()
        expect_equal(
            got, 1.0, f"the variance of scores of unit vectors {width} wide", tolerance=0.1
        )


def test_scaled_scores__treats_axes_in_front_as_so_many_problems():
    q, k = draw(2, 3, 4, 5, seed=1), draw(2, 3, 6, 5, seed=2)
    wanted = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(5)
    expect_equal(attention.scaled_scores(q, k), wanted, "scaled_scores(q, k)", dims=HEADS)


def test_scaled_scores__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-6), (torch.bfloat16, 3e-2)]:
        q, k = draw(3, 5, seed=1, dtype=dtype), draw(4, 5, seed=2, dtype=dtype)
        before = q.clone(), k.clone()
        wanted = (before[0].double() @ before[1].double().T / math.sqrt(5)).to(dtype)
        expect_equal(
            attention.scaled_scores(q, k),
            wanted,
            f"scaled_scores in {dtype}",
            dims=SCORES,
            tolerance=tolerance,
        )
        expect_unchanged(before[0], q, "q")
        expect_unchanged(before[1], k, "k")


def test_scaled_scores__lets_gradients_through():
    inputs = [draw(3, 5, dtype=torch.float64), draw(4, 5, seed=1, dtype=torch.float64)]
    expect_gradients(
        attention.scaled_scores, lambda q, k: q @ k.mT / math.sqrt(5), inputs, "scaled_scores"
    )


# masked_softmax


def test_masked_softmax__shares_the_weight_among_visible_keys():
    scores = torch.tensor([[0.0, 5.0, 7.0], [0.0, 0.0, 9.0], [0.0, LOG_2, LOG_5]])
    mask = torch.ones(3, 3).bool().tril()
    wanted = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.125, 0.25, 0.625]])
    got = attention.masked_softmax(scores, mask)
    expect_equal(got, wanted, "masked_softmax(scores, mask)", dims=SCORES)


def test_masked_softmax__gives_a_hidden_key_exactly_zero():
    scores, mask = 3 * draw(4, 6, seed=1), draw(4, 6, seed=2) > -0.3
    got = attention.masked_softmax(scores, mask)
    expect_shape(got, (4, 6), "the table of weights", SCORES)
    expect_equal(got[~mask], torch.zeros(int((~mask).sum())), "what hidden keys get", tolerance=0)
    expect_equal(got.sum(-1), torch.ones(4), "the sum of each row", dims="queries")


def test_masked_softmax__is_the_softmax_over_the_visible_keys_alone():
    scores, mask = 2 * draw(5, 5, seed=3), draw(5, 5, seed=4) > -0.3
    got = attention.masked_softmax(scores, mask)
    wanted = torch.zeros(5, 5)
    for i in range(5):
        visible = mask[i].nonzero().flatten()
        wanted[i, visible] = torch.softmax(scores[i, visible], 0)
    expect_equal(got, wanted, "masked_softmax(scores, mask)", dims=SCORES)


def test_masked_softmax__does_not_see_what_is_hidden_however_large():
    mask = torch.tensor([[True, True, False]])
    for hidden in (1e3, 1e9, -1e9, INF):
        got = attention.masked_softmax(torch.tensor([[0.0, LOG_3, hidden]]), mask)
        expect_equal(
            got,
            torch.tensor([[0.25, 0.75, 0.0]]),
            f"with a hidden score of {hidden:g}",
            dims=SCORES,
        )


def test_masked_softmax__stands_visible_scores_of_any_size():
    mask = torch.tensor([[True, True, False]])
    for level in (1000.0, -1000.0, -1e6):
        got = attention.masked_softmax(torch.tensor([[level, level, 0.0]]), mask)
        expect_equal(
            got,
            torch.tensor([[0.5, 0.5, 0.0]]),
            f"with visible scores of {level:g}",
            dims=SCORES,
            note="Below every visible score there is only -inf.",
        )


def test_masked_softmax__gives_a_query_that_sees_nothing_zeros():
    scores, mask = draw(3, 4, seed=1), torch.ones(3, 4).bool()
    mask[1] = False
    got = attention.masked_softmax(scores, mask)
    wanted = torch.softmax(scores, -1) * torch.tensor([[1.0], [0.0], [1.0]])
    expect_equal(got, wanted, "masked_softmax with nothing visible to query 1", dims=SCORES)


def test_masked_softmax__uses_one_mask_for_every_head():
    scores, mask = draw(2, 3, 4, 5, seed=1), torch.ones(4, 5).bool().tril(1)
    got = attention.masked_softmax(scores, mask)
    wanted = torch.softmax(scores.masked_fill(~mask, -INF), -1)
    expect_equal(got, wanted, "masked_softmax of (2, 3, 4, 5) and a (4, 5) mask", dims=HEADS)
    mask = torch.ones(2, 1, 1, 5).bool()
    mask[1, ..., 3:] = False
    got = attention.masked_softmax(scores, mask)
    wanted = torch.softmax(scores.masked_fill(~mask, -INF), -1)
    expect_equal(got, wanted, "masked_softmax of (2, 3, 4, 5) and a (2, 1, 1, 5) mask", dims=HEADS)


def test_masked_softmax__keeps_the_dtype_and_its_inputs():
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)]:
        scores, mask = draw(4, 4, seed=1, dtype=dtype), torch.ones(4, 4).bool().tril()
        before = scores.clone(), mask.clone()
        got = attention.masked_softmax(scores, mask)
        wanted = torch.softmax(before[0].double().masked_fill(~before[1], -INF), -1).to(dtype)
        expect_equal(got, wanted, f"masked_softmax in {dtype}", dims=SCORES, tolerance=tolerance)
        expect_unchanged(before[0], scores, "scores")
        expect_unchanged(before[1], mask, "mask")


def test_masked_softmax__lets_gradients_through_to_visible_scores():
    mask = torch.ones(4, 4).bool().tril()
    expect_gradients(
        lambda s: attention.masked_softmax(s, mask),
        lambda s: torch.softmax(s.masked_fill(~mask, -INF), -1),
        [draw(4, 4, dtype=torch.float64)],
        "masked_softmax",
    )


# three_tokens_by_hand


def by_hand_numbers(index: int, name: str, shape: tuple[int, int]) -> Tensor:
    answer = attention.three_tokens_by_hand()
    expect(
        isinstance(answer, (tuple, list)) and len(answer) == 2,
        "three_tokens_by_hand() should return two things: the weights and the outputs.",
    )
    try:
        numbers = torch.as_tensor(answer[index], dtype=torch.float64)
    except (ValueError, TypeError):
        numbers = torch.empty(0)
    expect(numbers.shape == shape, f"The {name} should be {shape[0]} rows of {shape[1]} numbers.")
    return numbers


def test_three_tokens_by_hand__lets_no_token_look_ahead():
    weights = by_hand_numbers(0, "weights", (3, 3))
    hidden = weights[[0, 0, 1], [1, 2, 2]]
    expect_equal(
        hidden,
        torch.zeros(3, dtype=torch.float64),
        "what later tokens get (0 on 1, 0 on 2, 1 on 2)",
    )


def test_three_tokens_by_hand__gives_every_query_weights_that_sum_to_one():
    sums = by_hand_numbers(0, "weights", (3, 3)).sum(dim=1)
    expect_equal(
        sums,
        torch.ones(3, dtype=torch.float64),
        "the sum of each row of weights",
        dims="queries",
        tolerance=1e-3,
    )


def three_tokens() -> tuple[Tensor, Tensor, Tensor]:
    q = torch.tensor(
        [
            [0, 2 * LOG_2, 0, 2 * LOG_3],
            [2 * LOG_3, 0, 0, 2 * LOG_4],
            [-2 * LOG_2, 2 * LOG_2, 0, 2 * LOG_5],
        ],
        dtype=torch.float64,
    )
    k = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.float64)
    v = torch.tensor([[8, 0], [0, 8], [8, 8]], dtype=torch.float64)
    return q, k, v


def test_three_tokens_by_hand__has_the_weights_of_scaled_scores():
    q, k, _ = three_tokens()
    scores = (q @ k.T / 2).masked_fill(torch.ones(3, 3).triu(1).bool(), -INF)
    got = by_hand_numbers(0, "weights", (3, 3))
    expect_equal(
        got, torch.softmax(scores, -1), "the table of weights", dims=SCORES, tolerance=2e-3
    )


def test_three_tokens_by_hand__has_the_averages_of_the_values():
    q, k, v = three_tokens()
    scores = (q @ k.T / 2).masked_fill(torch.ones(3, 3).triu(1).bool(), -INF)
    got = by_hand_numbers(1, "outputs", (3, 2))
    expect_equal(
        got, torch.softmax(scores, -1) @ v, "the table of outputs", dims="queries D", tolerance=2e-3
    )
