"""Module 01, wrong answers: similarity, averages and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

INF = float("inf")


# dot_product_similarity


@probes("dot_product_similarity")
def _(f: Any) -> list[Any]:
    return [
        lambda: f(draw(2, 3, seed=1), draw(4, 3, seed=2)),
        lambda: f(draw(4, 3, seed=1), draw(4, 3, seed=2)),
        lambda: f(draw(3, 3, seed=1), draw(3, 3, seed=2)),
        lambda: f(draw(2, 3, 4, 5, seed=1), draw(2, 3, 6, 5, seed=2)),
        lambda: f(draw(3, 3, 3, seed=1), draw(3, 3, 3, seed=2)),
        lambda: f(draw(2, 3, seed=1, dtype=torch.float64), draw(4, 3, dtype=torch.float64)),
        lambda: changed(f, draw(3, 4), draw(5, 4)),
    ]


@mutant(
    "dot_product_similarity",
    "You compute cosines: the lengths of the vectors are divided away. Attention keeps them, so "
    "leave out the norms.",
)
def cosine(queries: Tensor, keys: Tensor) -> Tensor:
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1)


@mutant(
    "dot_product_similarity",
    "Your table is on its side: rows are keys and columns queries. Put the queries on the left of "
    "the product.",
)
def rows_are_keys(queries: Tensor, keys: Tensor) -> Tensor:
    return keys @ queries.transpose(-2, -1)


@mutant(
    "dot_product_similarity",
    "You multiply each query with the key of the same number only. Every query meets every key: "
    "that is a matrix product.",
)
def pairs_only(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries * keys).sum(dim=-1)


@mutant(
    "dot_product_similarity",
    "You multiply with the keys as they lie, without transposing them: the sum then runs over the "
    "wrong axis of the keys.",
)
def keys_not_transposed(queries: Tensor, keys: Tensor) -> Tensor:
    return queries @ keys


@mutant(
    "dot_product_similarity",
    "`.T` turns round all axes, the batch as well. Swap the last two only: `transpose(-2, -1)` or "
    "`.mT`.",
)
def all_axes_transposed(queries: Tensor, keys: Tensor) -> Tensor:
    return queries @ keys.permute(*reversed(range(keys.ndim)))


@mutant(
    "dot_product_similarity",
    "You return distances, with or without a sign, and not dot products.",
)
def negative_distance(queries: Tensor, keys: Tensor) -> Tensor:
    return -(queries.unsqueeze(-2) - keys.unsqueeze(-3)).square().sum(dim=-1)


@mutant(
    "dot_product_similarity",
    "You divide by the root of the width already. That comes later, in `scaled_scores`.",
)
def scaled_already(queries: Tensor, keys: Tensor) -> Tensor:
    return queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])


@mutant(
    "dot_product_similarity",
    "Your similarity is never negative. Opposite vectors should have a negative one: leave out "
    "the absolute value.",
)
def absolute(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries @ keys.transpose(-2, -1)).abs()


@mutant(
    "dot_product_similarity",
    "You add up over the axes in front: every sequence and head should have a table of its own.",
)
def batches_added(queries: Tensor, keys: Tensor) -> Tensor:
    if queries.ndim == 2:
        return queries @ keys.T
    return (queries @ keys.transpose(-2, -1)).flatten(0, -3).sum(dim=0)


@rewrite("dot_product_similarity")
def similarity_by_einsum(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.einsum("...qd,...kd->...qk", queries, keys)


@rewrite("dot_product_similarity")
def similarity_by_broadcasting(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries[..., :, None, :] * keys[..., None, :, :]).sum(-1)


@rewrite("dot_product_similarity")
def similarity_by_loops(queries: Tensor, keys: Tensor) -> Tensor:
    rows = [
        torch.stack(
            [(queries[..., i, :] * keys[..., j, :]).sum(-1) for j in range(keys.shape[-2])],
            -1,
        )
        for i in range(queries.shape[-2])
    ]
    return torch.stack(rows, -2)


# weighted_average


@probes("weighted_average")
def _(f: Any) -> list[Any]:
    def weights(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return draw(*shape, seed=1, dtype=dtype).softmax(-1)

    return [
        lambda: f(weights(2, 3), draw(3, 4, seed=2)),
        lambda: f(weights(3, 3), draw(3, 3, seed=2)),
        lambda: f(2 * weights(3, 3), draw(3, 3, seed=2)),
        lambda: f(weights(2, 3, 4, 5), draw(2, 3, 5, 6, seed=2)),
        lambda: f(weights(3, 3, 3), draw(3, 3, 3, seed=2)),
        lambda: f(weights(2, 3, dtype=torch.float64), draw(3, 4, seed=2, dtype=torch.float64)),
    ]


@mutant(
    "weighted_average",
    "Your averages ignore the weights: all values count alike for every query.",
)
def plain_mean(weights: Tensor, values: Tensor) -> Tensor:
    mean = values.mean(dim=-2, keepdim=True)
    return mean.expand(*weights.shape[:-1], values.shape[-1]).clone()


@mutant(
    "weighted_average",
    "You use the columns of the weights where their rows belong: query i has row i. Leave out the "
    "transpose.",
)
def weights_transposed(weights: Tensor, values: Tensor) -> Tensor:
    return weights.transpose(-2, -1) @ values


@mutant(
    "weighted_average",
    "You divide by the sum of the weights. Take them as they are: after dropout they are not "
    "meant to sum to one.",
)
def divided_again(weights: Tensor, values: Tensor) -> Tensor:
    return weights @ values / weights.sum(dim=-1, keepdim=True)


@mutant(
    "weighted_average",
    "You divide by the number of keys as well. The weights have that in them: they sum to one.",
)
def divided_by_the_number_of_keys(weights: Tensor, values: Tensor) -> Tensor:
    return weights @ values / weights.shape[-1]


@mutant(
    "weighted_average",
    "You multiply elementwise, each weight with the value in the same place. Each query needs a "
    "sum over all keys: a matrix product.",
)
def elementwise(weights: Tensor, values: Tensor) -> Tensor:
    return weights * values


@mutant(
    "weighted_average",
    "You transpose the values, so that the sum runs over their channels and not over the keys.",
)
def values_transposed(weights: Tensor, values: Tensor) -> Tensor:
    return weights @ values.transpose(-2, -1)


@mutant(
    "weighted_average",
    "You take the one value with the largest weight. An average takes from all of them.",
)
def largest_only(weights: Tensor, values: Tensor) -> Tensor:
    one_hot = F.one_hot(weights.argmax(-1), weights.shape[-1]).to(values.dtype)
    return one_hot @ values


@rewrite("weighted_average")
def average_by_einsum(weights: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("...qk,...kd->...qd", weights, values)


@rewrite("weighted_average")
def average_by_broadcasting(weights: Tensor, values: Tensor) -> Tensor:
    return (weights.unsqueeze(-1) * values.unsqueeze(-3)).sum(dim=-2)


@rewrite("weighted_average")
def average_by_a_loop_over_keys(weights: Tensor, values: Tensor) -> Tensor:
    total = weights[..., :1] * values[..., :1, :]
    for j in range(1, values.shape[-2]):
        total = total + weights[..., j : j + 1] * values[..., j : j + 1, :]
    return total


# softmax_by_formula


def softmax_probes(f: Any) -> list[Any]:
    return [
        lambda: f(torch.tensor([1.0, 2.0, 5.0]).log()),
        lambda: f(draw(3, 3, seed=1)),
        lambda: f(draw(3, 3, seed=1), 0),
        lambda: f(draw(3, 3, seed=1), dim=1),
        lambda: f(draw(2, 3, 4, seed=1), 1),
        lambda: f(draw(2, 3, 4, seed=1)),
        lambda: f(torch.tensor([-2.0, -1.0, 0.5])),
        lambda: f(draw(3, 4, dtype=torch.float64)),
        lambda: f(draw(3, 4, dtype=torch.bfloat16)),
        lambda: changed(f, draw(3, 4)),
    ]


@probes("softmax_by_formula")
def _(f: Any) -> list[Any]:
    return softmax_probes(f)


@mutant(
    "softmax_by_formula",
    "You return the exponentials themselves. Divide them by their sum along `dim`.",
)
def not_divided(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp()


@mutant(
    "softmax_by_formula",
    "All your weights together sum to one. Each row along `dim` should: give `dim` to the sum.",
)
def one_sum_for_all(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp() / scores.exp().sum()


@mutant(
    "softmax_by_formula",
    "The sums have lost their axis, and so are lined up with the wrong rows: ask for "
    "`keepdim=True`.",
)
def without_keepdim(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp() / scores.exp().sum(dim=dim)


@mutant(
    "softmax_by_formula",
    "You divide along the last axis always. Hand on `dim`.",
)
def always_the_last_axis(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


@mutant(
    "softmax_by_formula",
    "You divide along the first axis always, so that columns sum to one. Hand on `dim`.",
)
def always_the_first_axis(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp() / scores.exp().sum(dim=0, keepdim=True)


@mutant(
    "softmax_by_formula",
    "You divide the scores by their sum without taking exponentials: negative scores then give "
    "negative weights.",
)
def without_exponentials(scores: Tensor, dim: int = -1) -> Tensor:
    return scores / scores.sum(dim=dim, keepdim=True)


@mutant(
    "softmax_by_formula",
    "You take powers of 2. A softmax takes powers of e: torch.exp.",
)
def powers_of_two(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.exp2(scores) / torch.exp2(scores).sum(dim=dim, keepdim=True)


@mutant(
    "softmax_by_formula",
    "You divide by the largest power, so that the largest weight is 1. Divide by the sum.",
)
def divided_by_the_largest(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp() / scores.exp().amax(dim=dim, keepdim=True)


@mutant(
    "softmax_by_formula",
    "You divide by the mean of the powers, so that the weights sum to their number. Divide by the "
    "sum.",
)
def divided_by_the_mean(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp() / scores.exp().mean(dim=dim, keepdim=True)


@mutant(
    "softmax_by_formula",
    "You return the logarithms of the weights, as log_softmax does.",
)
def logarithms(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.log_softmax(scores, dim)


@mutant(
    "softmax_by_formula",
    "You give each score a sigmoid of its own. The weights have to share one whole: divide by the "
    "sum of the exponentials.",
)
def sigmoids(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.sigmoid(scores)


@mutant(
    "softmax_by_formula",
    "You write into the scores of your caller: `exp_` works in place, `exp` makes a new tensor.",
)
def in_place(scores: Tensor, dim: int = -1) -> Tensor:
    powers = scores.exp_() if not scores.requires_grad else scores.exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax_by_formula",
    "You return float32 whatever comes in. Keep the dtype of the scores.",
)
def always_float32(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(scores.float(), dim)


@rewrite("softmax_by_formula")
def softmax_of_torch(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(scores, dim)


@rewrite("softmax_by_formula")
def softmax_by_logarithms(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.exp(scores - torch.logsumexp(scores, dim, keepdim=True))


@rewrite("softmax_by_formula")
def softmax_with_the_axis_moved_last(scores: Tensor, dim: int = -1) -> Tensor:
    moved = torch.movedim(scores, dim, -1)
    powers = math.e**moved
    return torch.movedim(powers / powers.sum(-1).unsqueeze(-1), -1, dim)


# softmax


@probes("softmax")
def _(f: Any) -> list[Any]:
    levels = torch.tensor([[0.0, 1.0], [500.0, 499.0]])
    return [
        *softmax_probes(f),
        lambda: f(torch.tensor([1000.0, 1000.0, 999.0])),
        lambda: f(torch.tensor([-1000.0, -1000.0, -1001.0])),
        lambda: f(torch.tensor([0.0, 1000.0, 0.0])),
        lambda: f(levels.clone()),
        lambda: f(levels.T.clone(), 0),
        lambda: f(torch.tensor([-INF, 0.0, 1.0])),
        lambda: f(torch.tensor([70.0, 75.0, 80.0])),
        lambda: f(torch.tensor([[-1e4, -1e4 + 1], [0.0, 1.0]])),
    ]


@mutant(
    "softmax",
    "This is right for small scores and overflows for large ones: exp(89) is inf in float32. Take "
    "each row's largest score away first.",
)
def no_maximum_taken_away(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.exp() / scores.exp().sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You take away the largest score of the whole tensor. A row far below it becomes 0 / 0: take "
    "each row's own, along `dim`.",
)
def one_maximum_for_all(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.max()).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You take the largest score along the last axis, and sum along `dim`. Give `dim` to both.",
)
def maximum_over_the_last_axis(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You take the largest score along the first axis, and sum along `dim`. Give `dim` to both.",
)
def maximum_over_the_first_axis(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.amax(dim=0, keepdim=True)).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You take away the mean of the row. That leaves a far larger score too large: take away the "
    "largest.",
)
def mean_taken_away(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.mean(dim=dim, keepdim=True)).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You take away the smallest score, so that the powers grow from 1 up and overflow. Take away "
    "the largest.",
)
def minimum_taken_away(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.amin(dim=dim, keepdim=True)).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You take away the largest absolute value. With negative scores that makes all powers 0: "
    "leave out the abs.",
)
def largest_absolute_value_taken_away(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.abs().amax(dim=dim, keepdim=True)).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You cut off large scores. Above the limit they all become equal: shift the scores instead.",
)
def scores_cut_off(scores: Tensor, dim: int = -1) -> Tensor:
    powers = scores.clamp(-80, 80).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You divide by the largest score, which changes the differences and so the weights. Subtract "
    "it.",
)
def divided_by_the_largest_score(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores / scores.amax(dim=dim, keepdim=True)).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "You replace NaN after it has come about. The weights of large scores are then wrong: shift "
    "the scores before the exponential.",
)
def not_a_number_replaced(scores: Tensor, dim: int = -1) -> Tensor:
    powers = scores.exp()
    return torch.nan_to_num(powers / powers.sum(dim=dim, keepdim=True))


@mutant(
    "softmax",
    "You compute in float64, which only overflows later: exp(710) is inf there. Take each row's "
    "largest score away.",
)
def in_float64(scores: Tensor, dim: int = -1) -> Tensor:
    powers = scores.double().exp()
    return (powers / powers.sum(dim=dim, keepdim=True)).to(scores.dtype)


@mutant(
    "softmax",
    "You write into the scores of your caller: `scores -= ...` works in place. Write `scores - "
    "...`.",
)
def scores_changed_in_place(scores: Tensor, dim: int = -1) -> Tensor:
    if scores.requires_grad:
        return torch.softmax(scores, dim)
    scores -= scores.amax(dim=dim, keepdim=True)
    return scores.exp() / scores.exp().sum(dim=dim, keepdim=True)


@mutant(
    "softmax",
    "All your weights together sum to one. Each row along `dim` should: give `dim` to the sum.",
)
def stable_but_one_sum_for_all(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.amax(dim=dim, keepdim=True)).exp()
    return powers / powers.sum()


@mutant(
    "softmax",
    "The sums have lost their axis, and so are lined up with the wrong rows: ask for "
    "`keepdim=True`.",
)
def sum_without_keepdim(scores: Tensor, dim: int = -1) -> Tensor:
    powers = (scores - scores.amax(dim=dim, keepdim=True)).exp()
    return powers / powers.sum(dim=dim)


@mutant("softmax", "You work along the last axis always. Hand on `dim`.")
def stable_along_the_last_axis(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(scores, -1)


@mutant(
    "softmax",
    "No gradient flows back through your answer: leave out detach() and torch.no_grad().",
)
def without_gradients(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(scores.detach(), dim)


@rewrite("softmax")
def softmax_by_torch(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(scores, dim)


@rewrite("softmax")
def softmax_by_logsumexp(scores: Tensor, dim: int = -1) -> Tensor:
    return torch.exp(scores - torch.logsumexp(scores, dim, keepdim=True))


@rewrite("softmax")
def softmax_by_max_with_its_indices(scores: Tensor, dim: int = -1) -> Tensor:
    largest, _ = torch.max(scores.detach(), dim, keepdim=True)
    powers = torch.exp(scores - largest)
    return powers * powers.sum(dim, keepdim=True).reciprocal()


# softmax_with_temperature


@probes("softmax_with_temperature")
def _(f: Any) -> list[Any]:
    return [
        lambda: f(torch.tensor([0.0, 1.0, 3.0]), 1.0),
        lambda: f(torch.tensor([0.0, 1.0, 3.0]), 0.5),
        lambda: f(torch.tensor([0.0, 1.0, 3.0]), 4.0),
        lambda: f(draw(3, 3, seed=1), 0.7),
        lambda: f(draw(2, 3, 3, seed=1), 0.7),
        lambda: f(torch.tensor([[1.0, 3.0, 2.0]]), 0.001),
        lambda: f(draw(2, 3, dtype=torch.float64), 2),
        lambda: changed(lambda s: f(s, 2.0), draw(2, 3)),
    ]


@mutant(
    "softmax_with_temperature",
    "You multiply by the temperature: it is sharper above 1 and flatter below, the wrong way "
    "round. Divide.",
)
def multiplied(scores: Tensor, temperature: float) -> Tensor:
    return torch.softmax(scores * temperature, -1)


@mutant(
    "softmax_with_temperature",
    "You divide the weights by the temperature, so that they no longer sum to one. Divide the "
    "scores, before the softmax.",
)
def weights_divided(scores: Tensor, temperature: float) -> Tensor:
    return torch.softmax(scores, -1) / temperature


@mutant("softmax_with_temperature", "The temperature changes nothing in your answer: use it.")
def temperature_ignored(scores: Tensor, temperature: float) -> Tensor:
    return torch.softmax(scores, -1)


@mutant(
    "softmax_with_temperature",
    "You divide by the square root of the temperature. Divide by the temperature.",
)
def root_of_the_temperature(scores: Tensor, temperature: float) -> Tensor:
    return torch.softmax(scores / temperature**0.5, -1)


@mutant(
    "softmax_with_temperature",
    "Your weights sum to one over the first axis. They should over the last.",
)
def over_the_first_axis(scores: Tensor, temperature: float) -> Tensor:
    return torch.softmax(scores / temperature, 0)


@mutant(
    "softmax_with_temperature",
    "Low temperatures make the scores large, and your softmax overflows: use the stable "
    "`softmax`, not the formula.",
)
def by_the_formula(scores: Tensor, temperature: float) -> Tensor:
    powers = (scores / temperature).exp()
    return powers / powers.sum(-1, keepdim=True)


@mutant(
    "softmax_with_temperature",
    "You divide the scores of your caller in place: write `scores / temperature`.",
)
def temperature_in_place(scores: Tensor, temperature: float) -> Tensor:
    if not scores.requires_grad:
        scores /= temperature
        return torch.softmax(scores, -1)
    return torch.softmax(scores / temperature, -1)


@rewrite("softmax_with_temperature")
def powers_of_weights(scores: Tensor, temperature: float) -> Tensor:
    return torch.exp(torch.log_softmax(scores * (1 / temperature), -1))


@rewrite("softmax_with_temperature")
def one_row_at_a_time(scores: Tensor, temperature: float) -> Tensor:
    rows = scores.reshape(-1, scores.shape[-1])
    return torch.stack([attention.softmax(row / temperature) for row in rows]).view(scores.shape)
