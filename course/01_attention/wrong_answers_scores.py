"""Module 01, wrong answers: masks, the scale, and three tokens by hand."""

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


# causal_mask


@probes("causal_mask")
def _(f: Any) -> list[Any]:
    return [
        lambda: f(3, 3),
        lambda: f(2, 5),
        lambda: f(1, 4),
        lambda: f(1, 1),
        lambda: f(6, 6),
        lambda: f(4, 6).dtype == torch.bool,
        lambda: tuple(f(2, 5).shape),
        lambda: from_names_of_devices(f),
    ]


def from_names_of_devices(f: Any) -> bool:
    from tiny_transformer.course.devices import is_placed

    return is_placed(lambda: f(2, 3, device=torch.device("cpu")))


@mutant(
    "causal_mask",
    "Your tokens look forward: the triangle is the upper one. Query i may see the keys up to i: "
    "`tril`.",
)
def upper_triangle(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.triu(n_keys - n_queries)


@mutant(
    "causal_mask",
    "A token cannot see itself in your mask, and the first one sees nothing: keep the diagonal.",
)
def without_itself(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(n_keys - n_queries - 1)


@mutant(
    "causal_mask",
    "Your mask is off by one: each token sees the one after it. The triangle ends at the diagonal.",
)
def one_ahead(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(n_keys - n_queries + 1)


@mutant(
    "causal_mask",
    "You take the queries to be the first positions. They are the last: with fewer queries than "
    "keys, the triangle moves right by `n_keys - n_queries`.",
)
def queries_first(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril()


@mutant(
    "causal_mask",
    "Your mask moves the wrong way with fewer queries than keys: the diagonal is `n_keys - "
    "n_queries`.",
)
def moved_the_wrong_way(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(n_queries - n_keys)


@mutant(
    "causal_mask",
    "Your mask is True where a query may not look. True means that it may: turn it round.",
)
def true_where_hidden(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.triu(n_keys - n_queries + 1)


@mutant("causal_mask", "Your mask hides nothing: every query sees every key.")
def nothing_hidden(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)


@mutant("causal_mask", "Each query sees only itself in your mask. It may see all before it too.")
def only_itself(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    places = torch.arange(n_keys, device=device)
    return places[n_keys - n_queries :, None] == places[None]


@mutant(
    "causal_mask",
    "Your mask has ones and zeros. It should be of dtype bool: `dtype=torch.bool`.",
)
def ones_and_zeros(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    return torch.ones(n_queries, n_keys, device=device).tril(n_keys - n_queries)


@mutant(
    "causal_mask",
    "You return numbers to add to the scores, 0 and minus infinity. Here a mask is bool: True "
    "where a query may look.",
)
def to_be_added(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    return torch.full((n_queries, n_keys), -INF, device=device).triu(n_keys - n_queries + 1)


@mutant(
    "causal_mask",
    "Your mask lies on its side: rows are keys. It should have a row for each query.",
)
def on_its_side(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    return causal_mask_of_the_package(n_queries, n_keys, device).T.contiguous()


@mutant(
    "causal_mask",
    "You make the mask on the default device, whatever `device` says: pass it on to torch.ones.",
)
def device_ignored(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)


def causal_mask_of_the_package(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(n_keys - n_queries)


@rewrite("causal_mask")
def by_comparing_positions(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    of_queries = torch.arange(n_keys - n_queries, n_keys, device=device)
    return torch.arange(n_keys, device=device)[None, :] <= of_queries[:, None]


@rewrite("causal_mask")
def by_inverting_the_upper_triangle(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    hidden = torch.triu(
        torch.ones(n_queries, n_keys, device=device), diagonal=n_keys - n_queries + 1
    )
    return hidden == 0


@rewrite("causal_mask")
def by_the_last_rows_of_the_square(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    return torch.tril(torch.ones(n_keys, n_keys)).bool()[n_keys - n_queries :].to(device or "cpu")


# dot_product_variance


@probes("dot_product_variance")
def _(f: Any) -> list[Any]:
    calls = [(1, 1.0, 1.0), (64, 1.0, 1.0), (9, 2.0, 1.0), (9, 1.0, 3.0), (16, 0.5, 3.0)]
    return [*(lambda c=c: float(f(*c)) for c in calls), lambda: float(f(25))]


@mutant(
    "dot_product_variance",
    "You return the standard deviation. The variance is its square: leave out the root.",
)
def standard_deviation(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return math.sqrt(d_k) * q_std * k_std


@mutant(
    "dot_product_variance",
    "You multiply the standard deviations. The variance of a product of independent numbers is "
    "the product of their variances: square both.",
)
def deviations_not_squared(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return d_k * q_std * k_std


@mutant(
    "dot_product_variance",
    "You square the number of components. Variances of independent numbers add, d_k of them: the "
    "square would belong to d_k equal ones.",
)
def width_squared(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return d_k**2 * q_std**2 * k_std**2


@mutant(
    "dot_product_variance",
    "Your answer holds for unit vectors. The two standard deviations matter too.",
)
def deviations_ignored(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return float(d_k)


@mutant(
    "dot_product_variance",
    "You add the variances of query and key. They are multiplied in the dot product, and so are "
    "their variances.",
)
def variances_added(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return d_k * (q_std**2 + k_std**2) / 2


@mutant(
    "dot_product_variance",
    "You leave out the number of components: the dot product is a sum of d_k products, each with "
    "a variance.",
)
def one_component_only(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return q_std**2 * k_std**2


@mutant(
    "dot_product_variance",
    "You return what the products have to be divided by or multiplied with, not their variance.",
)
def the_scale(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return 1 / (math.sqrt(d_k) * q_std * k_std)


@rewrite("dot_product_variance")
def by_adding_up(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return sum((q_std * k_std) ** 2 for _ in range(d_k))


@rewrite("dot_product_variance")
def in_a_tensor(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> Any:
    return torch.tensor(d_k * q_std**2 * k_std**2, dtype=torch.float64)


@rewrite("dot_product_variance")
def by_the_square_of_the_deviation(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    return (math.sqrt(d_k) * q_std * k_std) ** 2


# scaled_scores


@probes("scaled_scores")
def _(f: Any) -> list[Any]:
    return [
        lambda: f(draw(2, 9, seed=1), draw(4, 9, seed=2)),
        lambda: f(draw(5, 3, seed=1), draw(2, 3, seed=2)),
        lambda: f(draw(4, 4, seed=1), draw(4, 4, seed=2)),
        lambda: f(draw(2, 2, seed=1), draw(7, 2, seed=2)),
        lambda: f(draw(2, 3, 4, 5, seed=1), draw(2, 3, 6, 5, seed=2)),
        lambda: f(draw(3, 5, seed=1, dtype=torch.float64), draw(4, 5, dtype=torch.float64)),
        lambda: f(draw(3, 5, seed=1, dtype=torch.bfloat16), draw(4, 5, dtype=torch.bfloat16)),
        lambda: changed(f, draw(3, 4, seed=1), draw(5, 4)),
    ]


@mutant(
    "scaled_scores",
    "The scale is missing: these are plain dot products. Divide by the square root of the width.",
)
def no_scale(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1)


@mutant("scaled_scores", "You divide by the width itself. Divide by its square root.")
def divided_by_the_width(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / q.shape[-1]


@mutant(
    "scaled_scores",
    "You multiply by the square root of the width, which makes the scores larger still. Divide.",
)
def multiplied_by_the_root(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) * math.sqrt(q.shape[-1])


@mutant(
    "scaled_scores",
    "You take the root of the number of keys. The dot product sums over the width: the last axis "
    "of q.",
)
def root_of_the_number_of_keys(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / math.sqrt(k.shape[-2])


@mutant(
    "scaled_scores",
    "You take the root of the number of queries. The dot product sums over the width: the last "
    "axis of q.",
)
def root_of_the_number_of_queries(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-2])


@mutant(
    "scaled_scores",
    "You take the root of the first axis, which is the batch where there is one. The width is the "
    "last axis.",
)
def root_of_the_first_axis(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[0])


@mutant(
    "scaled_scores",
    "You round the root down to a whole number: `//` or int() is at work. Divide by the root as "
    "it is.",
)
def root_rounded_down(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / int(math.sqrt(q.shape[-1]))


@mutant(
    "scaled_scores",
    "Your table is on its side: rows are keys. Put the queries on the left of the product.",
)
def scores_on_their_side(q: Tensor, k: Tensor) -> Tensor:
    return k @ q.transpose(-2, -1) / math.sqrt(q.shape[-1])


@mutant(
    "scaled_scores",
    "You compute cosines: each vector is divided by its own length. Divide by the root of the "
    "width instead.",
)
def cosines(q: Tensor, k: Tensor) -> Tensor:
    return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)


@mutant(
    "scaled_scores",
    "You divide the queries of your caller in place: write `q / ...`, which makes a new tensor.",
)
def queries_changed_in_place(q: Tensor, k: Tensor) -> Tensor:
    q = q.div_(math.sqrt(q.shape[-1])) if not q.requires_grad else q / math.sqrt(q.shape[-1])
    return q @ k.transpose(-2, -1)


@mutant(
    "scaled_scores",
    "You return another dtype than comes in: keep that of the queries.",
)
def scores_in_float32(q: Tensor, k: Tensor) -> Tensor:
    return q.float() @ k.float().transpose(-2, -1) / math.sqrt(q.shape[-1])


@rewrite("scaled_scores")
def queries_scaled_first(q: Tensor, k: Tensor) -> Tensor:
    return (q / math.sqrt(q.shape[-1])) @ k.mT


@rewrite("scaled_scores")
def both_scaled_by_the_fourth_root(q: Tensor, k: Tensor) -> Tensor:
    scale = q.shape[-1] ** -0.25
    return torch.einsum("...qd,...kd->...qk", q * scale, k * scale)


@rewrite("scaled_scores")
def root_as_a_tensor(q: Tensor, k: Tensor) -> Tensor:
    return torch.matmul(q, k.transpose(-1, -2)) * torch.rsqrt(torch.tensor(float(q.size(-1))))


# masked_softmax


@probes("masked_softmax")
def _(f: Any) -> list[Any]:
    def triangle() -> Tensor:
        return torch.ones(4, 4).bool().tril()

    blind = triangle()
    blind[1] = False
    return [
        lambda: f(draw(4, 4, seed=1), triangle()),
        lambda: f(draw(4, 6, seed=1), draw(4, 6, seed=2) > -0.3),
        lambda: f(torch.full((4, 4), 3.0), triangle()),
        lambda: f(draw(4, 4, seed=1) - 50, triangle()),
        lambda: f(draw(4, 4, seed=1) - 2e4, triangle()),
        lambda: f(draw(4, 4, seed=1) + 1e3, triangle()),
        lambda: f(torch.tensor([[0.0, 1.0, 1e3]]), torch.tensor([[True, True, False]])),
        lambda: f(torch.tensor([[0.0, 1.0, INF]]), torch.tensor([[True, True, False]])),
        lambda: f(draw(4, 4, seed=1), blind.clone()),
        lambda: f(draw(4, 4, seed=1), torch.ones(4, 4).bool()),
        lambda: f(draw(2, 3, 4, 4, seed=1), triangle()),
        lambda: f(draw(4, 4, seed=1, dtype=torch.float64), triangle()),
        lambda: changed(lambda s: f(s, triangle()), draw(4, 4)),
        lambda: changed(lambda m: f(draw(4, 4), m), triangle()),
    ]


@mutant(
    "masked_softmax",
    "You zero the hidden weights after the softmax, and the rows no longer sum to one. Hide the "
    "scores before it.",
)
def zeroed_after_the_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores, -1) * mask


@mutant(
    "masked_softmax",
    "You give hidden keys the score 0, and exp(0) is 1: they take a share. Minus infinity is the "
    "score that takes nothing.",
)
def hidden_scores_are_zero(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores * mask, -1)


@mutant(
    "masked_softmax",
    "You hide what may be seen and show what may not. `masked_fill` fills where its mask is True: "
    "give it `~mask`.",
)
def mask_turned_round(scores: Tensor, mask: Tensor) -> Tensor:
    weights = torch.softmax(scores.masked_fill(mask, -INF), -1)
    return weights.masked_fill(mask, 0.0)


@mutant(
    "masked_softmax",
    "A query that may look at nothing gets NaN: a softmax of nothing but minus infinity is 0 / 0. "
    "Put zeros there.",
)
def not_a_number_for_blind_queries(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores.masked_fill(~mask, -INF), -1)


@mutant(
    "masked_softmax",
    "You use a large negative number for hidden scores. A query that may look at nothing then "
    "spreads its weight over the hidden keys, and very low scores lose against it. Use minus "
    "infinity.",
)
def a_large_negative_number(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores.masked_fill(~mask, -1e4), -1)


@mutant(
    "masked_softmax",
    "You hide keys with a number that is not low enough: they keep a small weight. Use minus "
    "infinity.",
)
def not_negative_enough(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores.masked_fill(~mask, -5.0), -1)


@mutant(
    "masked_softmax",
    "You put the smallest positive float for hidden scores: `torch.finfo(...).tiny` is nearly 0, "
    "and exp(0) is 1. You want minus infinity.",
)
def the_smallest_positive_number(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).tiny), -1) * mask.any(
        -1, keepdim=True
    )


@mutant("masked_softmax", "Your answer does not use the mask: hidden keys keep their weight.")
def mask_ignored(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores, -1)


@mutant(
    "masked_softmax",
    "Your weights sum to one over the queries, not over the keys: look at `dim` of the softmax.",
)
def over_the_queries(scores: Tensor, mask: Tensor) -> Tensor:
    weights = torch.softmax(scores.masked_fill(~mask, -INF), -2)
    return torch.nan_to_num(weights)


@mutant(
    "masked_softmax",
    "You softmax all scores, zero the hidden weights and divide again. Where a hidden score is "
    "far larger, nothing is left to divide: hide the scores before the softmax.",
)
def divided_again_after_masking(scores: Tensor, mask: Tensor) -> Tensor:
    weights = torch.softmax(scores, -1) * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)


@mutant(
    "masked_softmax",
    "You take the exponentials without taking the largest score away, so large scores overflow. "
    "Use your stable `softmax`.",
)
def masked_without_the_maximum(scores: Tensor, mask: Tensor) -> Tensor:
    powers = scores.exp().masked_fill(~mask, 0.0)
    return powers / powers.sum(-1, keepdim=True).clamp(min=1e-30)


@mutant(
    "masked_softmax",
    "You multiply the mask with minus infinity: 0 times infinity is NaN. Use `masked_fill` or "
    "`torch.where`.",
)
def mask_times_minus_infinity(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(scores + (~mask).to(scores.dtype) * -INF, -1)


@mutant(
    "masked_softmax",
    "You write minus infinity into the scores of your caller: `masked_fill_` works in place, "
    "`masked_fill` makes a new tensor.",
)
def scores_filled_in_place(scores: Tensor, mask: Tensor) -> Tensor:
    hidden = scores.masked_fill(~mask, -INF)
    if not scores.requires_grad:
        scores.masked_fill_(~mask, -INF)
    return torch.softmax(hidden, -1).masked_fill(~mask, 0.0)


@mutant(
    "masked_softmax",
    "You apply a triangle of your own, whatever the mask says. Hide what the mask hides.",
)
def a_triangle_of_its_own(scores: Tensor, mask: Tensor) -> Tensor:
    n_queries, n_keys = scores.shape[-2:]
    triangle = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    return torch.nan_to_num(torch.softmax(scores.masked_fill(~triangle, -INF), -1))


@mutant(
    "masked_softmax",
    "You give all visible keys the same weight, whatever their scores.",
)
def even_over_the_visible(scores: Tensor, mask: Tensor) -> Tensor:
    shares = mask.expand(scores.shape).to(scores.dtype)
    return shares / shares.sum(-1, keepdim=True).clamp(min=1)


@rewrite("masked_softmax")
def masked_by_where(scores: Tensor, mask: Tensor) -> Tensor:
    weights = attention.softmax(torch.where(mask, scores, torch.full_like(scores, -INF)))
    return torch.where(mask, weights, torch.zeros_like(weights))


@rewrite("masked_softmax")
def masked_by_powers(scores: Tensor, mask: Tensor) -> Tensor:
    hidden = scores.masked_fill(~mask, -INF)
    largest = hidden.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    powers = torch.exp(hidden - largest)
    total = powers.sum(-1, keepdim=True)
    return powers / total.masked_fill(total == 0, 1.0)


@rewrite("masked_softmax")
def masked_and_nan_replaced(scores: Tensor, mask: Tensor) -> Tensor:
    scores = scores.clone()
    scores[~mask.expand_as(scores)] = -INF
    return torch.nan_to_num(F.softmax(scores, dim=-1), nan=0.0)


# three_tokens_by_hand


def three_tokens() -> tuple[Tensor, Tensor, Tensor]:
    a, b, c, d = (2 * math.log(n) for n in (2, 3, 4, 5))
    q = torch.tensor([[0, a, 0, b], [b, 0, 0, c], [-a, a, 0, d]], dtype=torch.float64)
    k = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.float64)
    v = torch.tensor([[8.0, 0], [0, 8], [8, 8]], dtype=torch.float64)
    return q, k, v


def worked_out(scores: Tensor, *, hidden: float = -INF, dim: int = -1) -> Any:
    seen = torch.ones(3, 3).bool().tril()
    weights = torch.softmax(scores.masked_fill(~seen, hidden), dim)
    return weights.tolist(), (weights @ three_tokens()[2]).tolist()


@probes("three_tokens_by_hand")
def _(f: Any) -> list[Any]:
    def rows(index: int) -> list[Tensor]:
        numbers = torch.as_tensor(f()[index], dtype=torch.float64)
        return list(numbers.round(decimals=2))  # people round

    return [
        *(lambda i=i: rows(0)[i] for i in range(3)),
        *(lambda i=i: rows(1)[i] for i in range(3)),
    ]


@mutant(
    "three_tokens_by_hand",
    "These are the weights of scores that were not divided by sqrt(4) = 2: your odds are the "
    "squares of the right ones, 9 : 1 for token 1.",
)
def forgot_the_scale() -> Any:
    q, k, _ = three_tokens()
    return worked_out(q @ k.T)


@mutant(
    "three_tokens_by_hand",
    "You divided by 4, the width, and not by its root 2: your odds are the roots of the right "
    "ones.",
)
def divided_by_four() -> Any:
    q, k, _ = three_tokens()
    return worked_out(q @ k.T / 4)


@mutant(
    "three_tokens_by_hand",
    "Your tokens look at later ones: cross out what stands right of the diagonal before the "
    "exponentials are added up.",
)
def forgot_the_mask() -> Any:
    q, k, v = three_tokens()
    weights = torch.softmax(q @ k.T / 2, -1)
    return weights.tolist(), (weights @ v).tolist()


@mutant(
    "three_tokens_by_hand",
    "You gave hidden keys the score 0, and exp(0) is 1: they take a share. They get nothing.",
)
def hidden_ones_counted_as_one() -> Any:
    q, k, _ = three_tokens()
    return worked_out(q @ k.T / 2, hidden=0.0)


@mutant(
    "three_tokens_by_hand",
    "You crossed out the hidden weights last, so your rows do not sum to one. Cross out first, "
    "then divide by what is left.",
)
def crossed_out_last() -> Any:
    q, k, v = three_tokens()
    weights = torch.softmax(q @ k.T / 2, -1).tril()
    return weights.tolist(), (weights @ v).tolist()


@mutant(
    "three_tokens_by_hand",
    "Your columns sum to one. Each row belongs to a query, and should.",
)
def divided_down_the_columns() -> Any:
    q, k, _ = three_tokens()
    return worked_out(q @ k.T / 2, dim=0)


@mutant(
    "three_tokens_by_hand",
    "The products are of the wrong pairs: row i, column j is query i with key j, and you have key "
    "i with query j.",
)
def rows_and_columns_exchanged() -> Any:
    q, k, _ = three_tokens()
    return worked_out(k @ q.T / 2)


@mutant(
    "three_tokens_by_hand",
    "Every token it sees counts alike in your averages. The scores decide: take the exponentials "
    "of the scaled products.",
)
def all_alike() -> Any:
    return worked_out(torch.zeros(3, 3, dtype=torch.float64))


@mutant(
    "three_tokens_by_hand",
    "Your weights are right, and your outputs are averages of the keys' rows taken the wrong way: "
    "use column j of the weights as token j's share, and the values, row by row.",
)
def averaged_with_the_columns() -> Any:
    q, k, v = three_tokens()
    weights, _ = worked_out(q @ k.T / 2)
    return weights, (torch.tensor(weights, dtype=torch.float64).T @ v).tolist()


@rewrite("three_tokens_by_hand")
def by_a_program() -> Any:
    q, k, _ = three_tokens()
    return worked_out(q @ k.T / 2)


@rewrite("three_tokens_by_hand")
def as_tensors() -> Any:
    weights = torch.tensor([[8, 0, 0], [6, 2, 0], [1, 2, 5]]) / 8
    return weights, torch.tensor([[8, 0], [6, 2], [6, 7]])


@rewrite("three_tokens_by_hand")
def as_rounded_decimals() -> Any:
    return [[1, 0, 0], [0.75, 0.25, 0], [0.125, 0.25, 0.625]], ((8.0, 0.0), (6.0, 2.0), (6.0, 7.0))
