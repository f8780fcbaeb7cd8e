"""Module 02, wrong answers: how heads differ, and what each is worth."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from my_transformer import attention
from torch import Tensor

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

# head_divergence


def some_weights(B: int, H: int, Tq: int, Tk: int) -> Tensor:
    hidden = torch.ones(Tq, Tk).triu(1 + Tk - Tq).bool()
    scores = 2 * draw(B, H, Tq, Tk, seed=H)
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)


@probes("head_divergence")
def _(f: Any) -> list[Any]:
    apart = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]]])
    swap = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    sizes = [(2, 3, 4, 4), (3, 2, 5, 5), (1, 4, 2, 2), (3, 3, 3, 3), (2, 3, 2, 7), (2, 1, 3, 3)]
    return [
        lambda: f(apart),
        lambda: f(swap),
        lambda: f(swap.permute(2, 1, 0, 3).contiguous()),
        *(lambda s=s: tuple(f(some_weights(*s)).shape) for s in sizes),
        *(lambda s=s: f(some_weights(*s)) for s in sizes),
        lambda: f(some_weights(2, 3, 4, 4).double()),
        lambda: changed(f, some_weights(2, 3, 4, 4)),
    ]


def entropy(weights: Tensor) -> Tensor:
    return torch.special.entr(weights).sum(-1)


def js(p: Tensor, q: Tensor) -> Tensor:
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def pairs(weights: Tensor) -> tuple[Tensor, Tensor]:
    return weights.unsqueeze(2), weights.unsqueeze(1)


def kl(p: Tensor, m: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, m)).sum(-1)


@mutant(
    "head_divergence",
    "You return the entropy of the mean alone. Take away the mean of the two entropies: two heads "
    "that look alike have the divergence 0.",
)
def entropy_of_the_mean(weights: Tensor) -> Tensor:
    p, q = pairs(weights)
    return entropy((p + q) / 2).mean((0, -1))


@mutant(
    "head_divergence",
    "You take away the sum of the two entropies. Take away their mean: half of the sum.",
)
def sum_of_the_entropies(weights: Tensor) -> Tensor:
    p, q = pairs(weights)
    return (entropy((p + q) / 2) - entropy(p) - entropy(q)).mean((0, -1))


@mutant(
    "head_divergence",
    "You take the entropy of p + q, which sums to two. It is that of their mean, (p + q) / 2.",
)
def entropy_of_the_sum(weights: Tensor) -> Tensor:
    p, q = pairs(weights)
    return (entropy(p + q) - (entropy(p) + entropy(q)) / 2).mean((0, -1))


@mutant("head_divergence", "Your logarithms have base 2, which gives bits. Nats have base e.")
def divergence_in_bits(weights: Tensor) -> Tensor:
    return js(*pairs(weights)).mean((0, -1)) / math.log(2)


@mutant(
    "head_divergence",
    "You take the root, which gives the Jensen-Shannon distance. The divergence is its square.",
)
def the_distance(weights: Tensor) -> Tensor:
    return js(*pairs(weights)).clamp(min=0).sqrt().mean((0, -1))


@mutant(
    "head_divergence",
    "You compute the Kullback-Leibler divergence of two heads, which is not symmetric and infinite "
    "where one looks and the other does not. Compare both with their mean.",
)
def kullback_leibler(weights: Tensor) -> Tensor:
    return kl(*pairs(weights)).mean((0, -1))


@mutant(
    "head_divergence",
    "You compare one head with the mean, and not the other: the table is not symmetric. Take half "
    "of both.",
)
def one_side_only(weights: Tensor) -> Tensor:
    p, q = pairs(weights)
    return kl(p, (p + q) / 2).mean((0, -1))


@mutant(
    "head_divergence",
    "You add up both halves, and get twice the divergence: at most ln 2 is right, not 2 ln 2.",
)
def twice_the_divergence(weights: Tensor) -> Tensor:
    return 2 * js(*pairs(weights)).mean((0, -1))


@mutant("head_divergence", "You add up over queries and sequences. Take the mean.")
def divergence_summed(weights: Tensor) -> Tensor:
    return js(*pairs(weights)).sum((0, -1))


@mutant("head_divergence", "You add up over the queries. Take the mean over them as well.")
def queries_summed(weights: Tensor) -> Tensor:
    return js(*pairs(weights)).sum(-1).mean(0)


@mutant(
    "head_divergence",
    "You average the weights over the queries first, and compare the averages: heads that differ "
    "in each query can be alike on average. Compare row by row.",
)
def queries_averaged_first(weights: Tensor) -> Tensor:
    return js(*pairs(weights.mean(2))).mean(0)


@mutant(
    "head_divergence",
    "You average the weights over the sequences first, and compare the averages. Compare each "
    "sequence, then take the mean.",
)
def sequences_averaged_first(weights: Tensor) -> Tensor:
    return js(*pairs(weights.mean(0, keepdim=True))).mean((0, -1))


@mutant(
    "head_divergence",
    "You look at the first sequence alone. Take the mean over all.",
)
def first_sequence_alone(weights: Tensor) -> Tensor:
    return js(*pairs(weights[:1])).mean((0, -1))


@mutant(
    "head_divergence",
    "You look at the last query alone. Take the mean over all.",
)
def last_query_alone(weights: Tensor) -> Tensor:
    return js(*pairs(weights[:, :, -1:])).mean((0, -1))


@mutant(
    "head_divergence",
    "You leave the first query out. Take the mean over all, also over those that see one key.",
)
def first_query_left_out(weights: Tensor) -> Tensor:
    return js(*pairs(weights[:, :, 1:])).mean((0, -1))


@mutant(
    "head_divergence",
    "You return a divergence for each sequence. Take the mean over them too: (H, H).",
)
def one_for_each_sequence(weights: Tensor) -> Tensor:
    return js(*pairs(weights)).mean(-1)


@mutant(
    "head_divergence",
    "You return one number. There is one for each two heads: (H, H).",
)
def one_number_for_all_pairs(weights: Tensor) -> Tensor:
    return js(*pairs(weights)).mean()


@mutant(
    "head_divergence",
    "You measure likeness, such as a cosine: equal heads have 1, not 0.",
)
def cosine_similarity(weights: Tensor) -> Tensor:
    p, q = pairs(weights)
    return F.cosine_similarity(p, q, dim=-1).mean((0, -1))


@mutant(
    "head_divergence",
    "You take half the sum of the absolute differences (the total variation): use entropies.",
)
def total_variation(weights: Tensor) -> Tensor:
    p, q = pairs(weights)
    return (p - q).abs().sum(-1).mean((0, -1)) / 2


@mutant(
    "head_divergence",
    "Weights of 0 give you NaN: 0 times log 0. Your `attention_entropy` counts them as nothing.",
)
def not_a_number_for_zeros(weights: Tensor) -> Tensor:
    p, q = pairs(weights)
    m = (p + q) / 2
    h = [-(w * w.log()).sum(-1) for w in (m, p, q)]
    return (h[0] - (h[1] + h[2]) / 2).mean((0, -1))


@mutant("head_divergence", "Half of your table is empty: it is symmetric, fill both sides.")
def half_a_table(weights: Tensor) -> Tensor:
    return js(*pairs(weights)).mean((0, -1)).triu()


@mutant("head_divergence", "The sign is turned round: divergences are not negative.")
def negative_divergence(weights: Tensor) -> Tensor:
    return -js(*pairs(weights)).mean((0, -1))


@mutant("head_divergence", "You compare queries of one head. Compare heads at one query.")
def queries_compared(weights: Tensor) -> Tensor:
    return js(weights.unsqueeze(3), weights.unsqueeze(2)).mean((0, 1))


@mutant("head_divergence", "You return float32 whatever comes in: keep the dtype.")
def divergence_in_float32(weights: Tensor) -> Tensor:
    return js(*pairs(weights.float())).mean((0, -1))


@mutant(
    "head_divergence",
    "You average the weights over sequences and queries first, and compare the averages. Compare "
    "row by row, and take the mean of the divergences.",
)
def means_over_both_compared(weights: Tensor) -> Tensor:
    rows = weights.mean((0, 2))
    return js(rows[:, None], rows)


@rewrite("head_divergence")
def by_two_loops(weights: Tensor) -> Tensor:
    H = weights.shape[1]
    table = weights.new_zeros(H, H)
    for a in range(H):
        for b in range(a):
            p, q = weights[:, a], weights[:, b]
            e = [attention.attention_entropy(w) for w in ((p + q) / 2, p, q)]
            table[a, b] = table[b, a] = (e[0] - (e[1] + e[2]) / 2).mean()
    return table


@rewrite("head_divergence")
def by_kullback_leibler_to_the_mean(weights: Tensor) -> Tensor:
    p, q = weights[:, :, None], weights[:, None]
    m = (p + q) / 2
    return ((kl(p, m) + kl(q, m)) / 2).mean(dim=3).mean(dim=0)


@rewrite("head_divergence")
def with_a_tiny_clamp(weights: Tensor) -> Tensor:
    def h(w: Tensor) -> Tensor:
        return -(w * w.clamp(min=1e-12).log()).sum(-1)

    rows = weights.permute(1, 0, 2, 3).flatten(1, 2)  # (H, B Tq, Tk)
    m = (rows[:, None] + rows) / 2
    return (h(m) - (h(rows)[:, None] + h(rows)) / 2).mean(-1)


# head_contributions


@probes("head_contributions")
def _(f: Any) -> list[Any]:
    sizes = [(2, 3, 5, 4, 12), (3, 2, 4, 5, 7), (1, 4, 2, 1, 3), (2, 3, 3, 3, 9), (2, 2, 2, 2, 4)]

    def some(s: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        B, H, T, D, C = s
        return draw(B, H, T, D, **kwargs), draw(C, H * D, seed=1, **kwargs)

    def gradients() -> Any:
        leaves = [x.requires_grad_() for x in some(sizes[0], dtype=torch.float64)]
        y = f(*leaves)
        if not y.requires_grad:
            return "none"
        y.square().sum().backward()
        return [leaf.grad if leaf.grad is not None else "none" for leaf in leaves]

    return [
        *(lambda s=s: tuple(f(*some(s)).shape) for s in sizes),
        *(lambda s=s: f(*some(s)) for s in sizes),
        *(lambda s=s: f(*some(s)).sum(1) for s in sizes),
        lambda: f(*some(sizes[1], dtype=torch.float64)),
        lambda: f(draw(2, 4, 3, 2).transpose(1, 2), draw(6, 5, seed=1).T),
        lambda: changed(f, *some(sizes[1])),
        gradients,
    ]


def columns_of(o_weight: Tensor, H: int) -> Tensor:
    return torch.stack(o_weight.chunk(H, dim=1))  # (H, C, D)


def terms(heads: Tensor, blocks: Tensor) -> Tensor:
    return torch.einsum("bhtd,hcd->bhtc", heads, blocks)


@mutant(
    "head_contributions",
    "You take rows of the weight. What a head found comes in, and what comes in stands in the "
    "columns: head h has columns h D to h D + D - 1.",
)
def rows_for_columns(heads: Tensor, o_weight: Tensor) -> Tensor:
    return torch.einsum("bhtd,hdc->bhtc", heads, o_weight.unflatten(0, (heads.shape[1], -1)))


@mutant(
    "head_contributions",
    "Your heads take every H-th column. Each has D columns in a row.",
)
def columns_in_turn(heads: Tensor, o_weight: Tensor) -> Tensor:
    blocks = o_weight.unflatten(1, (heads.shape[-1], heads.shape[1]))  # (C, D, H)
    return torch.einsum("bhtd,cdh->bhtc", heads, blocks)


@mutant("head_contributions", "All heads use the columns of head 0. Each has its own.")
def columns_of_the_first(heads: Tensor, o_weight: Tensor) -> Tensor:
    return heads @ o_weight[:, : heads.shape[-1]].T


@mutant("head_contributions", "The columns are in reverse order: head 0 has the first D.")
def columns_in_reverse(heads: Tensor, o_weight: Tensor) -> Tensor:
    return terms(heads, columns_of(o_weight, heads.shape[1]).flip(0))


@mutant(
    "head_contributions",
    "You return the sum over the heads. Keep the terms apart: (B, H, T, C).",
)
def the_sum_of_heads(heads: Tensor, o_weight: Tensor) -> Tensor:
    return terms(heads, columns_of(o_weight, heads.shape[1])).sum(1)


@mutant(
    "head_contributions",
    "You divide by the number of heads, as for a mean. The output is the sum of the contributions.",
)
def divided_by_the_heads(heads: Tensor, o_weight: Tensor) -> Tensor:
    return terms(heads, columns_of(o_weight, heads.shape[1])) / heads.shape[1]


@mutant(
    "head_contributions",
    "You give each head an equal share of the whole output. A share is what its own columns make.",
)
def equal_shares(heads: Tensor, o_weight: Tensor) -> Tensor:
    whole = terms(heads, columns_of(o_weight, heads.shape[1])).mean(1, keepdim=True)
    return whole.expand(-1, heads.shape[1], -1, -1)


@mutant(
    "head_contributions",
    "You return the whole output for each head. A contribution is what that head's own columns "
    "make; all of them add up to the output.",
)
def the_whole_for_each(heads: Tensor, o_weight: Tensor) -> Tensor:
    whole = terms(heads, columns_of(o_weight, heads.shape[1])).sum(1, keepdim=True)
    return whole.expand(-1, heads.shape[1], -1, -1)


@mutant(
    "head_contributions",
    "You return the whole output with one head silenced. A contribution is what that head alone "
    "adds.",
)
def all_but_one(heads: Tensor, o_weight: Tensor) -> Tensor:
    own = terms(heads, columns_of(o_weight, heads.shape[1]))
    return own.sum(1, keepdim=True) - own


@mutant(
    "head_contributions",
    "Your tokens come before the heads: (B, T, H, C). It is (B, H, T, C).",
)
def tokens_before_heads(heads: Tensor, o_weight: Tensor) -> Tensor:
    return terms(heads, columns_of(o_weight, heads.shape[1])).transpose(1, 2)


@mutant(
    "head_contributions",
    "You reshape instead of transposing and mix heads and tokens: what each head found stays with "
    "its token.",
)
def heads_and_tokens_mixed(heads: Tensor, o_weight: Tensor) -> Tensor:
    B, H, T, D = heads.shape
    return terms(heads.reshape(B, T, H, D).transpose(1, 2), columns_of(o_weight, H))


@mutant("head_contributions", "No gradient flows back: no detach(), no .data, no new tensor.")
def contributions_detached(heads: Tensor, o_weight: Tensor) -> Tensor:
    return terms(heads.detach(), columns_of(o_weight.detach(), heads.shape[1]))


@mutant("head_contributions", "You return float32 whatever comes in: keep the dtype.")
def contributions_in_float32(heads: Tensor, o_weight: Tensor) -> Tensor:
    return terms(heads.float(), columns_of(o_weight.float(), heads.shape[1]))


@rewrite("head_contributions")
def by_silencing_the_others(heads: Tensor, o_weight: Tensor) -> Tensor:
    shares = []
    for h in range(heads.shape[1]):
        alone = torch.zeros_like(heads)
        alone[:, h] = heads[:, h]
        shares.append(F.linear(alone.transpose(1, 2).flatten(-2), o_weight))
    return torch.stack(shares, dim=1)


@rewrite("head_contributions")
def by_slices_of_columns(heads: Tensor, o_weight: Tensor) -> Tensor:
    D = heads.shape[-1]
    return torch.stack(
        [heads[:, h] @ o_weight[:, h * D : (h + 1) * D].T for h in range(heads.shape[1])], dim=1
    )


@rewrite("head_contributions")
def by_einsum(heads: Tensor, o_weight: Tensor) -> Tensor:
    C = o_weight.shape[0]
    blocks = o_weight.reshape(C, heads.shape[1], heads.shape[-1])
    return torch.einsum("bhtd,chd->bhtc", heads, blocks)
