"""Module 01, wrong answers: entropy, costs and permutations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

INF = float("inf")


# attention_entropy


@probes("attention_entropy")
def _(f: Any) -> list[Any]:
    return [
        lambda: f(torch.tensor([[0.5, 0.5], [0.25, 0.75]])),
        lambda: f(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])),
        lambda: f(draw(4, 4).softmax(-1)),
        lambda: f(draw(2, 3, 4, 5).softmax(-1)),
        lambda: f(torch.full((2, 8), 0.125)),
        lambda: 1e6 * f(torch.tensor([[1 - 1e-6, 1e-6]], dtype=torch.float64)),
        lambda: f(torch.tensor([[0.99, 0.01, 0.0, 0.0]])) * 1000,
        lambda: f(draw(2, 3, dtype=torch.float64).softmax(-1)),
    ]


@mutant("attention_entropy", "You take logarithms of base 2, which gives bits. Nats have base e.")
def in_bits(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1) / math.log(2)


@mutant(
    "attention_entropy",
    "A weight of 0 gives you NaN: 0 times log 0. Count it as nothing, for instance with "
    "torch.special.entr.",
)
def not_a_number_at_zero(weights: Tensor) -> Tensor:
    return -(weights * weights.log()).sum(-1)


@mutant("attention_entropy", "The sign is missing: logarithms of weights are negative.")
def without_the_sign(weights: Tensor) -> Tensor:
    return -torch.special.entr(weights).sum(-1)


@mutant("attention_entropy", "You take the mean over the keys. The entropy is a sum.")
def mean_for_sum(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).mean(-1)


@mutant(
    "attention_entropy",
    "You add up over the queries. Each query has an entropy: add up over the keys, the last axis.",
)
def entropy_over_the_queries(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-2)


@mutant(
    "attention_entropy",
    "You return one number for all queries. Each query has an entropy of its own.",
)
def one_entropy_for_all(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1).mean()


@mutant(
    "attention_entropy",
    "You divide by the largest possible entropy, so that it lies between 0 and 1. The formula "
    "asks for nats.",
)
def as_a_share(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1) / math.log(weights.shape[-1])


@mutant(
    "attention_entropy",
    "You return exp(entropy), the number of keys looked at. Leave out the last exponential.",
)
def number_of_keys(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1).exp()


@mutant(
    "attention_entropy",
    "You add a number inside the logarithm that is too large: small weights then count wrongly. "
    "Treat zeros apart instead.",
)
def something_added_to_the_weights(weights: Tensor) -> Tensor:
    return -(weights * (weights + 1e-3).log()).sum(-1)


@mutant(
    "attention_entropy",
    "You raise small weights to a least number, and count that: a weight of 0 should add nothing.",
)
def zeros_counted_as_small(weights: Tensor) -> Tensor:
    clamped = weights.clamp(min=1e-3)
    return -(clamped * clamped.log()).sum(-1)


@mutant(
    "attention_entropy",
    "You leave the factor w out and add up the logarithms alone.",
)
def logarithms_alone(weights: Tensor) -> Tensor:
    return -weights.clamp(min=1e-30).log().sum(-1)


@mutant("attention_entropy", "You return float32 whatever comes in. Keep the dtype.")
def entropy_in_float32(weights: Tensor) -> Tensor:
    return torch.special.entr(weights.float()).sum(-1)


@rewrite("attention_entropy")
def entropy_by_where(weights: Tensor) -> Tensor:
    safe = torch.where(weights > 0, weights, torch.ones_like(weights))
    return -(safe * safe.log()).sum(dim=-1)


@rewrite("attention_entropy")
def entropy_by_xlogy(weights: Tensor) -> Tensor:
    return -torch.xlogy(weights, weights).sum(dim=-1)


@rewrite("attention_entropy")
def entropy_with_a_tiny_clamp(weights: Tensor) -> Tensor:
    return -(weights * weights.clamp(min=1e-12).log()).sum(dim=-1)


@rewrite("attention_entropy")
def entropy_with_a_tiny_number_added(weights: Tensor) -> Tensor:
    return -(weights * torch.log(weights + 1e-9)).sum(dim=-1)


# attention_flops


@probes("attention_flops")
def _(f: Any) -> list[Any]:
    return [lambda t=t, c=c: tuple(f(t, c)) for t, c in [(1, 1), (10, 1), (1, 10), (3, 5), (7, 4)]]


def projections_and_mixing(n_tokens: int, d_model: int) -> tuple[int, int]:
    return 8 * n_tokens * d_model**2, 4 * n_tokens**2 * d_model


@mutant(
    "attention_flops",
    "You count a multiplication and its addition as one. They are two operations: everything "
    "doubles.",
)
def multiplications_only(n_tokens: int, d_model: int) -> Any:
    projections, mixing = projections_and_mixing(n_tokens, d_model)
    return projections // 2, mixing // 2


@mutant(
    "attention_flops",
    "You count three projections. The output has one too, `o_proj`.",
)
def three_projections(n_tokens: int, d_model: int) -> Any:
    projections, mixing = projections_and_mixing(n_tokens, d_model)
    return projections // 4 * 3, mixing


@mutant(
    "attention_flops",
    "You count one projection. There are four: to queries, keys and values, and back.",
)
def one_projection(n_tokens: int, d_model: int) -> Any:
    projections, mixing = projections_and_mixing(n_tokens, d_model)
    return projections // 4, mixing


@mutant(
    "attention_flops",
    "You count one product for the mixing. There are two: the scores, and the weighted average.",
)
def scores_without_the_average(n_tokens: int, d_model: int) -> Any:
    projections, mixing = projections_and_mixing(n_tokens, d_model)
    return projections, mixing // 2


@mutant(
    "attention_flops",
    "You deduct what the mask hides. It is computed and thrown away: count the whole table.",
)
def hidden_scores_deducted(n_tokens: int, d_model: int) -> Any:
    projections, _ = projections_and_mixing(n_tokens, d_model)
    return projections, 2 * n_tokens * (n_tokens + 1) * d_model


@mutant("attention_flops", "You return the mixing first. The projections come first.")
def mixing_first(n_tokens: int, d_model: int) -> Any:
    return projections_and_mixing(n_tokens, d_model)[::-1]


@mutant(
    "attention_flops",
    "In the mixing, the square is the length's and not the width's: every token meets every other.",
)
def square_of_the_width_in_the_mixing(n_tokens: int, d_model: int) -> Any:
    projections, _ = projections_and_mixing(n_tokens, d_model)
    return projections, 4 * n_tokens * d_model**2


@mutant(
    "attention_flops",
    "In the projections, the square is the width's and not the length's: each token is projected "
    "by itself.",
)
def square_of_the_length_in_the_projections(n_tokens: int, d_model: int) -> Any:
    _, mixing = projections_and_mixing(n_tokens, d_model)
    return 8 * n_tokens**2 * d_model, mixing


@mutant(
    "attention_flops",
    "You count the numbers in the weights of the four layers. Each token is multiplied with all "
    "of them: the length is a factor.",
)
def parameters_for_operations(n_tokens: int, d_model: int) -> Any:
    _, mixing = projections_and_mixing(n_tokens, d_model)
    return 8 * d_model**2, mixing


@mutant("attention_flops", "You return the sum. Return the two numbers apart.")
def one_sum(n_tokens: int, d_model: int) -> Any:
    return sum(projections_and_mixing(n_tokens, d_model))


@rewrite("attention_flops")
def product_by_product(n_tokens: int, d_model: int) -> Any:
    def product(a: int, b: int, c: int) -> int:
        return 2 * a * b * c

    T, C = n_tokens, d_model
    return sum(product(T, C, C) for _ in "qkvo"), product(T, C, T) + product(T, T, C)


@rewrite("attention_flops")
def factored(n_tokens: int, d_model: int) -> Any:
    unit = 4 * n_tokens * d_model
    return [unit * 2 * d_model, unit * n_tokens]


# attention_weight_bytes


@probes("attention_weight_bytes")
def _(f: Any) -> list[Any]:
    calls = [(1, 1, 1, 4), (2, 3, 5, 4), (2, 3, 5, 2), (1, 4, 16, 8), (3, 1, 7, 1)]
    return [*(lambda c=c: int(f(*c)) for c in calls), lambda: int(f(2, 5, 3))]


@mutant("attention_weight_bytes", "You leave out the heads: each has a table of its own.")
def heads_left_out(batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return batch * n_tokens**2 * bytes_per_value


@mutant("attention_weight_bytes", "You leave out the batch: each sequence has its own weights.")
def batch_left_out(batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return n_heads * n_tokens**2 * bytes_per_value


@mutant(
    "attention_weight_bytes",
    "You count one weight for each token. There is one for each pair of a query and a key: square "
    "the length.",
)
def length_not_squared(batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return batch * n_heads * n_tokens * bytes_per_value


@mutant(
    "attention_weight_bytes",
    "You count values, not bytes: each value takes `bytes_per_value`.",
)
def values_for_bytes(batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return batch * n_heads * n_tokens**2


@mutant("attention_weight_bytes", "You count bits: 8 times too many.")
def bits(batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return batch * n_heads * n_tokens**2 * bytes_per_value * 8


@mutant(
    "attention_weight_bytes",
    "You deduct what the mask hides. The zeros are stored like any number: count the whole table.",
)
def hidden_weights_deducted(
    batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4
) -> int:
    return batch * n_heads * n_tokens * (n_tokens + 1) // 2 * bytes_per_value


@mutant(
    "attention_weight_bytes",
    "You count 4 bytes always. Use `bytes_per_value`.",
)
def always_four_bytes(batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return batch * n_heads * n_tokens**2 * 4


@mutant(
    "attention_weight_bytes",
    "You return kibibytes or mebibytes. Return bytes.",
)
def in_kibibytes(batch: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> float:
    return batch * n_heads * n_tokens**2 * bytes_per_value / 1024


@rewrite("attention_weight_bytes")
def of_a_tensor(batch_size: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return torch.empty(batch_size, n_heads, n_tokens, n_tokens).numel() * bytes_per_value


@rewrite("attention_weight_bytes")
def by_math_prod(batch_size: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4) -> int:
    return math.prod([batch_size, n_heads, n_tokens, n_tokens, bytes_per_value])


# is_permutation_equivariant


def mix(x: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attend with the tokens themselves as queries, keys and values."""
    scores = x @ x.transpose(-2, -1)
    return (scores if seen is None else scores.masked_fill(~seen, -INF)).softmax(-1) @ x


def mix_causally(x: Tensor) -> Tensor:
    return mix(x, torch.ones(x.shape[-2], x.shape[-2]).bool().tril())


@probes("is_permutation_equivariant")
def _(f: Any) -> list[Any]:
    cycle, swap = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 0, 2, 3])
    positions, fixed = draw(4, 3, seed=9), draw(4, 3, seed=5)
    late = torch.tensor([1.0, 1.0, 2.0, 1.0])[:, None]
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    many = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    return [
        lambda: bool(f(mix, draw(4, 3), cycle)),
        lambda: bool(f(mix, draw(4, 3), swap)),
        lambda: bool(f(mix_causally, draw(4, 3), cycle)),
        lambda: bool(f(mix_causally, draw(4, 3), torch.arange(4))),
        lambda: bool(f(lambda x: x * late, draw(4, 3), torch.tensor([3, 0, 2, 1]))),
        lambda: bool(f(lambda x: x * late, draw(4, 3), torch.tensor([0, 1, 3, 2]))),
        lambda: bool(f(lambda x: x * signs, draw(4, 3), torch.tensor([1, 2, 3, 0]))),
        lambda: bool(f(lambda x: mix(x + positions), draw(4, 3), cycle)),
        lambda: bool(f(lambda x: mix(x + 0.05 * positions), draw(4, 3), cycle)),
        lambda: bool(f(lambda x: x.sum() * fixed, draw(4, 3), cycle)),
        lambda: bool(f(lambda x: x.roll(1, -2), draw(4, 4), swap)),
        lambda: bool(f(lambda x: x.cumsum(-2), draw(4, 4), swap)),
        lambda: bool(f(mix, draw(4, 4, 4), cycle)),
        lambda: bool(f(mix_causally, draw(4, 4, 4), cycle)),
        lambda: bool(f(mix_causally, draw(6, 4, 5), cycle)),
        lambda: bool(f(mix, draw(6, 4, 5), cycle)),
        lambda: bool(f(lambda x: x * torch.tensor([1.0, 2, 3, 4]), draw(4, 4), cycle)),
        lambda: bool(
            f(lambda x: mix(x) * torch.tensor([1.0, 2, 3, 4])[:, None, None], draw(4, 4, 4), cycle)
        ),
        lambda: bool(f(lambda x: mix(x / 3), draw(300, 32, seed=1), many)),
        lambda: changed(lambda x: f(mix, x, cycle), draw(4, 3)),
    ]


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@mutant(
    "is_permutation_equivariant",
    "You compare with the outputs in their old order, which asks for invariance: the same for "
    "every order. Reorder the outputs too.",
)
def invariance(attend: Any, x: Tensor, order: Tensor) -> bool:
    return close(attend(x[..., order, :]), attend(x))


@mutant(
    "is_permutation_equivariant",
    "You reorder the outputs by the inverse. Both sides take the same `order`.",
)
def inverse_on_one_side(attend: Any, x: Tensor, order: Tensor) -> bool:
    return close(attend(x[..., order, :]), attend(x)[..., order.argsort(), :])


@mutant(
    "is_permutation_equivariant",
    "You reorder the channels. Tokens are on the last axis but one: `x[..., order, :]`.",
)
def channels_reordered(attend: Any, x: Tensor, order: Tensor) -> bool:
    return close(attend(x[..., order]), attend(x)[..., order])


@mutant(
    "is_permutation_equivariant",
    "You reorder the first axis, which counts sequences where there is a batch. Tokens are on the "
    "last axis but one: `x[..., order, :]`.",
)
def first_axis_reordered(attend: Any, x: Tensor, order: Tensor) -> bool:
    return close(attend(x[order]), attend(x)[order])


@mutant(
    "is_permutation_equivariant",
    "You compare the numbers exactly. Sums come out a little different in another order: use "
    "torch.allclose.",
)
def compared_exactly(attend: Any, x: Tensor, order: Tensor) -> bool:
    return torch.equal(attend(x[..., order, :]), attend(x)[..., order, :])


@mutant(
    "is_permutation_equivariant",
    "You allow for differences that are far too large: 1e-4 is rounding, and more is not.",
)
def compared_loosely(attend: Any, x: Tensor, order: Tensor) -> bool:
    return torch.allclose(attend(x[..., order, :]), attend(x)[..., order, :], 0.5, 0.5)


@mutant(
    "is_permutation_equivariant",
    "You compare sums or means over the tokens, which tokens that move do not change. Compare "
    "every number.",
)
def sums_compared(attend: Any, x: Tensor, order: Tensor) -> bool:
    return close(attend(x[..., order, :]).sum(-2), attend(x)[..., order, :].sum(-2))


@mutant(
    "is_permutation_equivariant",
    "Your answer is always True. Do you compare a thing with itself? `attend` has to see the "
    "tokens reordered on one side, and as they were on the other.",
)
def always_true(attend: Any, x: Tensor, order: Tensor) -> bool:
    return True


@mutant(
    "is_permutation_equivariant",
    "You compare the first token alone, or some of them. Compare every number of every token.",
)
def first_token_compared(attend: Any, x: Tensor, order: Tensor) -> bool:
    return close(attend(x[..., order, :])[..., 0, :], attend(x)[..., order[0], :])


@mutant(
    "is_permutation_equivariant",
    "You compare the lengths of the tokens, or their size without the sign. Compare every number.",
)
def lengths_compared(attend: Any, x: Tensor, order: Tensor) -> bool:
    return close(attend(x[..., order, :]).norm(dim=-1), attend(x)[..., order, :].norm(dim=-1))


@mutant(
    "is_permutation_equivariant",
    "You try an order of your own. The question is about the order that is given.",
)
def an_order_of_its_own(attend: Any, x: Tensor, order: Tensor) -> bool:
    own = torch.arange(x.shape[-2]).flip(0)
    return close(attend(x[..., own, :]), attend(x)[..., own, :])


@mutant("is_permutation_equivariant", "You always return False.")
def always_false(attend: Any, x: Tensor, order: Tensor) -> bool:
    return False


@mutant(
    "is_permutation_equivariant",
    "You return whether they differ. Turn it round.",
)
def turned_round(attend: Any, x: Tensor, order: Tensor) -> bool:
    return not close(attend(x[..., order, :]), attend(x)[..., order, :])


@mutant(
    "is_permutation_equivariant",
    "You reorder the tokens of your caller in place: index without assigning.",
)
def reordered_in_place(attend: Any, x: Tensor, order: Tensor) -> bool:
    after = attend(x)[..., order, :]
    x[...] = x[..., order, :]
    return close(attend(x), after)


@rewrite("is_permutation_equivariant")
def by_putting_back(attend: Any, x: Tensor, order: Tensor) -> bool:
    back = attend(x[..., order, :])[..., torch.argsort(order), :]
    return bool((back - attend(x)).abs().max() <= 1e-4)


@rewrite("is_permutation_equivariant")
def by_a_permutation_matrix(attend: Any, x: Tensor, order: Tensor) -> bool:
    matrix = torch.eye(len(order))[order]
    return torch.allclose(attend(matrix @ x), matrix @ attend(x), atol=1e-4, rtol=1e-4)


@rewrite("is_permutation_equivariant")
def by_index_select(attend: Any, x: Tensor, order: Tensor) -> bool:
    before = attend(torch.index_select(x, -2, order))
    after = torch.index_select(attend(x), -2, order)
    return bool(torch.isclose(before, after, rtol=1e-4, atol=1e-4).all())
