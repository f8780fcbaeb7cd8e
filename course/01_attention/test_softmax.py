"""Module 01, what is promised: similarity, averages, and the softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.expect import (
    expect_equal,
    expect_gradients,
    expect_unchanged,
)
from tiny_transformer.course.inputs import draw

INF = float("inf")
SCORES = "queries keys"
HEADS = "B H queries keys"
LOG_2, LOG_3 = (math.log(n) for n in (2, 3))


# dot_product_similarity


def test_dot_product_similarity__gives_the_dot_products_of_small_vectors():
    queries = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    got = attention.dot_product_similarity(queries, keys)
    wanted = torch.tensor([[1.0, 0.0, 3.0], [2.0, 1.0, 6.0]])
    expect_equal(got, wanted, "dot_product_similarity(queries, keys)", dims=SCORES)


def test_dot_product_similarity__has_a_row_for_each_query_and_a_column_for_each_key():
    queries, keys = draw(4, 3, seed=1), draw(4, 3, seed=2)
    wanted = torch.tensor(
        [
            [sum(a * b for a, b in zip(q, k, strict=True)) for k in keys.tolist()]
            for q in queries.tolist()
        ]
    )
    got = attention.dot_product_similarity(queries, keys)
    expect_equal(got, wanted, "the similarity of 4 queries and 4 keys", dims=SCORES)


def test_dot_product_similarity__grows_with_the_length_of_a_vector():
    query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    got = attention.dot_product_similarity(10 * query, 10 * key)
    expect_equal(
        got,
        torch.tensor([[100.0]]),
        "the similarity of vectors ten times as long",
        dims=SCORES,
        note="A cosine does not grow with the length; this should.",
    )


def test_dot_product_similarity__is_negative_for_opposite_vectors():
    got = attention.dot_product_similarity(torch.tensor([[1.0, 1.0]]), torch.tensor([[-2.0, -1.0]]))
    expect_equal(got, torch.tensor([[-3.0]]), "the similarity of opposite vectors", dims=SCORES)


def test_dot_product_similarity__treats_axes_in_front_as_so_many_problems():
    queries, keys = draw(2, 3, 4, 5, seed=1), draw(2, 3, 6, 5, seed=2)
    got = attention.dot_product_similarity(queries, keys)
    wanted = torch.stack(
        [torch.stack([queries[b, h] @ keys[b, h].T for h in range(3)]) for b in range(2)]
    )
    expect_equal(got, wanted, "dot_product_similarity of (2, 3, 4, 5) and (2, 3, 6, 5)", dims=HEADS)


def test_dot_product_similarity__keeps_the_dtype_and_its_inputs():
    queries, keys = draw(3, 2, dtype=torch.float64), draw(5, 2, seed=1, dtype=torch.float64)
    before = queries.clone(), keys.clone()
    got = attention.dot_product_similarity(queries, keys)
    expect_equal(
        got, before[0] @ before[1].T, "the float64 similarity", dims=SCORES, tolerance=1e-12
    )
    expect_unchanged(before[0], queries, "queries")
    expect_unchanged(before[1], keys, "keys")


def test_dot_product_similarity__lets_gradients_through():
    inputs = [draw(3, 4, dtype=torch.float64), draw(5, 4, seed=1, dtype=torch.float64)]
    expect_gradients(
        attention.dot_product_similarity, lambda q, k: q @ k.mT, inputs, "dot_product_similarity"
    )


# weighted_average


def test_weighted_average__averages_by_hand():
    weights = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    values = torch.tensor([[4.0, 0.0, 8.0], [0.0, 4.0, 8.0]])
    wanted = torch.tensor([[4.0, 0.0, 8.0], [1.0, 3.0, 8.0]])
    got = attention.weighted_average(weights, values)
    expect_equal(got, wanted, "weighted_average(weights, values)", dims="queries D")


def test_weighted_average__uses_the_row_of_each_query():
    weights, values = draw(3, 3, seed=1).softmax(-1), draw(3, 3, seed=2)
    wanted = torch.stack([sum(weights[i, j] * values[j] for j in range(3)) for i in range(3)])
    got = attention.weighted_average(weights, values)
    expect_equal(got, wanted, "the average of 3 values for 3 queries", dims="queries D")


def test_weighted_average__takes_the_weights_as_they_are():
    weights = torch.tensor([[2.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    wanted = torch.tensor([[12.0, 16.0], [0.0, 0.0]])
    got = attention.weighted_average(weights, values)
    expect_equal(
        got,
        wanted,
        "the average with weights that sum to 4 and to 0",
        dims="queries D",
        note="Do not divide by the sum of the weights.",
    )


def test_weighted_average__treats_axes_in_front_as_so_many_problems():
    weights, values = draw(2, 3, 4, 5, seed=1), draw(2, 3, 5, 6, seed=2)
    wanted = (weights[..., None] * values[:, :, None]).sum(dim=3)  # (2, 3, 4, 6)
    got = attention.weighted_average(weights, values)
    expect_equal(
        got, wanted, "weighted_average of (2, 3, 4, 5) and (2, 3, 5, 6)", dims="B H queries D"
    )


def test_weighted_average__keeps_the_dtype_and_its_inputs():
    weights, values = draw(2, 3, dtype=torch.float64), draw(3, 4, seed=1, dtype=torch.float64)
    before = weights.clone(), values.clone()
    got = attention.weighted_average(weights, values)
    expect_equal(
        got, before[0] @ before[1], "the float64 average", dims="queries D", tolerance=1e-12
    )
    expect_unchanged(before[0], weights, "weights")
    expect_unchanged(before[1], values, "values")


def test_weighted_average__lets_gradients_through():
    inputs = [draw(3, 4, dtype=torch.float64), draw(4, 2, seed=1, dtype=torch.float64)]
    expect_gradients(attention.weighted_average, lambda w, v: w @ v, inputs, "weighted_average")


# softmax_by_formula and softmax: the first only for small scores


def expect_softmax_of_small_scores(softmax: Callable[..., Tensor], name: str) -> None:
    got = softmax(torch.tensor([1.0, 2.0, 5.0]).log())
    wanted = torch.tensor([0.125, 0.25, 0.625])
    expect_equal(got, wanted, f"{name}([log 1, log 2, log 5])", dims="keys")


def expect_softmax_along_every_axis(softmax: Callable[..., Tensor], name: str) -> None:
    for shape in [(3, 3), (2, 3, 4), (2, 2, 2)]:
        scores = 3 * draw(*shape, seed=1)
        dims = ("B " if len(shape) == 3 else "") + SCORES
        for dim in range(-1, len(shape)):
            got = softmax(scores) if dim == -1 else softmax(scores, dim)
            note = f"Each row along axis {dim} should sum to one."
            expect_equal(
                got,
                torch.softmax(scores, dim),
                f"{name} of {shape} with dim={dim}",
                dims=dims,
                note=note,
            )
    expect_equal(softmax(scores, dim=0), torch.softmax(scores, 0), f"{name}(scores, dim=0)")


def expect_softmax_keeps(softmax: Callable[..., Tensor], name: str) -> None:
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)]:
        scores = draw(3, 4, seed=2, dtype=dtype)
        before = scores.clone()
        wanted = torch.softmax(before.double(), -1).to(dtype)
        expect_equal(
            softmax(scores), wanted, f"{name} of {dtype}", dims=SCORES, tolerance=tolerance
        )
        expect_unchanged(before, scores, "scores")


def test_softmax_by_formula__gives_the_weights_of_three_small_scores():
    expect_softmax_of_small_scores(attention.softmax_by_formula, "softmax_by_formula")


def test_softmax_by_formula__takes_negative_scores_and_equal_ones():
    got = attention.softmax_by_formula(torch.tensor([-LOG_2, -LOG_2, -30.0, -30.0]))
    tiny = math.exp(-30)
    wanted = torch.tensor([0.5, 0.5, tiny, tiny])
    expect_equal(got, wanted, "softmax_by_formula([-log 2, -log 2, -30, -30])", dims="keys")
    got = attention.softmax_by_formula(torch.tensor([-50.0, -50.0]))
    expect_equal(got, torch.tensor([0.5, 0.5]), "softmax_by_formula([-50, -50])", dims="keys")


def test_softmax_by_formula__sums_to_one_along_the_axis_asked_for():
    expect_softmax_along_every_axis(attention.softmax_by_formula, "softmax_by_formula")


def test_softmax_by_formula__keeps_the_dtype_and_its_input():
    expect_softmax_keeps(attention.softmax_by_formula, "softmax_by_formula")


def test_softmax_by_formula__lets_gradients_through():
    scores = [draw(3, 4, dtype=torch.float64)]
    expect_gradients(
        attention.softmax_by_formula, lambda s: s.softmax(-1), scores, "softmax_by_formula"
    )


def test_softmax__gives_the_weights_of_three_small_scores():
    expect_softmax_of_small_scores(attention.softmax, "softmax")


def test_softmax__sums_to_one_along_the_axis_asked_for():
    expect_softmax_along_every_axis(attention.softmax, "softmax")


def test_softmax__stands_very_large_scores():
    for level in (100.0, 1000.0, -1000.0, 1e4):
        got = attention.softmax(torch.tensor([level, level, level - 1]))
        last = 1 / (1 + 2 * math.e)
        wanted = torch.tensor([(1 - last) / 2, (1 - last) / 2, last])
        expect_equal(
            got,
            wanted,
            f"softmax([{level:g}, {level:g}, {level - 1:g}])",
            dims="keys",
            tolerance=1e-3,
            note="exp() of a large number is inf, and of a very negative one 0.",
        )


def test_softmax__stands_scores_that_are_far_apart():
    scores = torch.tensor([0.0, 1000.0, 0.0, -1000.0])
    wanted = torch.tensor([0.0, 1.0, 0.0, 0.0])
    expect_equal(attention.softmax(scores), wanted, "softmax([0, 1000, 0, -1000])", dims="keys")


def test_softmax__looks_after_each_row_by_itself():
    small = torch.tensor([[0.0, LOG_3], [LOG_3, 0.0]])
    scores = small + torch.tensor([[0.0], [500.0]])  # the second row's level is high
    got = attention.softmax(scores)
    wanted = torch.tensor([[0.25, 0.75], [0.75, 0.25]])
    note = "Which largest score did you take away: each row's own?"
    expect_equal(
        got, wanted, "the softmax of a low and a high row", dims=SCORES, note=note, tolerance=1e-4
    )
    got = attention.softmax(scores.T.contiguous(), 0)
    expect_equal(
        got,
        wanted.T,
        "the softmax, with dim=0, of a low and a high column",
        dims="keys queries",
        note=note,
        tolerance=1e-4,
    )


def test_softmax__gives_minus_infinity_the_weight_zero():
    got = attention.softmax(torch.tensor([[-INF, 0.0, LOG_3], [-900.0, -INF, -INF]]))
    wanted = torch.tensor([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    expect_equal(got, wanted, "softmax([[-inf, 0, log 3], [-900, -inf, -inf]])", dims=SCORES)
    got = attention.softmax(torch.tensor([-2e9, -INF]))
    expect_equal(got, torch.tensor([1.0, 0.0]), "softmax([-2e9, -inf])", dims="keys")


def test_softmax__keeps_the_dtype_and_its_input():
    expect_softmax_keeps(attention.softmax, "softmax")


def test_softmax__lets_gradients_through():
    scores = [draw(3, 4, dtype=torch.float64)]
    expect_gradients(attention.softmax, lambda s: s.softmax(-1), scores, "softmax")
    expect_gradients(
        lambda s: attention.softmax(s, 0), lambda s: s.softmax(0), scores, "softmax with dim=0"
    )


# softmax_with_temperature


def test_softmax_with_temperature__is_the_softmax_at_one():
    got = attention.softmax_with_temperature(torch.tensor([0.0, LOG_3]), 1.0)
    expect_equal(got, torch.tensor([0.25, 0.75]), "at temperature 1", dims="keys")


def test_softmax_with_temperature__is_sharper_below_one_and_flatter_above():
    scores = torch.tensor([0.0, LOG_3])
    got = attention.softmax_with_temperature(scores, 0.5)
    expect_equal(got, torch.tensor([0.1, 0.9]), "at temperature 0.5: odds 1 : 9", dims="keys")
    got = attention.softmax_with_temperature(2 * scores, 4.0)
    odds = 3**0.5
    wanted = torch.tensor([1 / (1 + odds), odds / (1 + odds)])
    expect_equal(got, wanted, "at temperature 4, of [0, 2 log 3]: odds 1 : sqrt(3)", dims="keys")


def test_softmax_with_temperature__sums_to_one_over_the_last_axis():
    scores = draw(2, 3, 3, seed=1)
    got = attention.softmax_with_temperature(scores, 0.7)
    wanted = torch.softmax(scores / 0.7, dim=-1)
    expect_equal(got, wanted, "at temperature 0.7", dims="B queries keys")


def test_softmax_with_temperature__nears_the_largest_and_the_even():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    cold = attention.softmax_with_temperature(scores, 0.001)
    expect_equal(
        cold,
        torch.tensor([[0.0, 1.0, 0.0]]),
        "at temperature 0.001",
        dims=SCORES,
        note="The divided scores are large: is your softmax the stable one?",
    )
    hot = attention.softmax_with_temperature(scores, 1e6)
    expect_equal(hot, torch.full((1, 3), 1 / 3), "at temperature 1000000", dims=SCORES)


def test_softmax_with_temperature__keeps_the_dtype_and_its_input():
    scores = draw(3, 4, dtype=torch.float64)
    before = scores.clone()
    got = attention.softmax_with_temperature(scores, 2)
    expect_equal(
        got, torch.softmax(before / 2, -1), "the float64 result", dims=SCORES, tolerance=1e-12
    )
    expect_unchanged(before, scores, "scores")


def test_softmax_with_temperature__lets_gradients_through():
    expect_gradients(
        lambda s: attention.softmax_with_temperature(s, 0.5),
        lambda s: torch.softmax(s / 0.5, -1),
        [draw(3, 4, dtype=torch.float64)],
        "softmax_with_temperature",
    )
