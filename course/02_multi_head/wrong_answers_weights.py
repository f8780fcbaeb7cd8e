"""Module 02, wrong answers: weights side by side, and key-value heads that are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

# join_head_weights


def some_weights(H: int, D: int, C: int, **kwargs: Any) -> list[Tensor]:
    return [draw(D, C, seed=h + 1, **kwargs) for h in range(H)]


def gradients(f: Any, *inputs: Tensor) -> Any:
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = f(*leaves)
    if not y.requires_grad:
        return "none"
    y.square().sum().backward()
    return [leaf.grad for leaf in leaves]


@probes("join_head_weights")
def _(f: Any) -> list[Any]:
    sizes = [(2, 3, 4), (3, 2, 6), (1, 4, 5), (4, 1, 2), (3, 3, 3), (2, 1, 3)]
    return [
        *(lambda s=s: tuple(f(some_weights(*s)).shape) for s in sizes),
        *(lambda s=s: f(some_weights(*s)) for s in sizes),
        lambda: f(some_weights(2, 3, 4, dtype=torch.float64)),
        lambda: f(tuple(some_weights(2, 3, 4))),
        lambda: changed(lambda *w: f(list(w)), *some_weights(2, 3, 4)),
        lambda: gradients(lambda *w: f(list(w)), *some_weights(2, 3, 4)),
    ]


@mutant(
    "join_head_weights",
    "You put the matrices side by side along the columns. Their rows are what comes out, so the "
    "rows of one come after those of another: dim 0.",
)
def columns_joined(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(head_weights), dim=1)


@mutant(
    "join_head_weights",
    "The rows of the heads take turns: row 0 of each, then row 1 of each. All rows of head 0 come "
    "first.",
)
def rows_in_turn(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(head_weights), dim=1).flatten(0, 1)


@mutant("join_head_weights", "The heads are in reverse order: head 0 makes the first numbers.")
def joined_in_reverse(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(head_weights)[::-1])


@mutant(
    "join_head_weights",
    "You stack the matrices into three axes. One matrix: (H * D, C).",
)
def stacked(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(head_weights))


@mutant(
    "join_head_weights",
    "Your weight is transposed, (C, H * D). `nn.Linear` has a row for each number that comes out.",
)
def joined_and_transposed(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(head_weights)).T


@mutant("join_head_weights", "You add the matrices up: then all heads are one.")
def weights_added(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(head_weights)).sum(0)


@mutant(
    "join_head_weights",
    "The rows come from `reshape` of transposed matrices and belong to no head: join them as they "
    "are.",
)
def joined_and_reshaped(head_weights: Sequence[Tensor]) -> Tensor:
    joined = torch.cat(list(head_weights))
    return joined.T.reshape(joined.shape)


@mutant("join_head_weights", "Every block is head 0's matrix: take each head's own.")
def first_for_all(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([head_weights[0]] * len(head_weights))


@mutant("join_head_weights", "You return float32 whatever comes in: keep the dtype.")
def joined_in_float32(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([w.float() for w in head_weights])


@mutant("join_head_weights", "No gradient flows back: no detach(), no .data, no new tensor.")
def joined_and_detached(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([w.detach() for w in head_weights])


@rewrite("join_head_weights")
def by_stack_and_flatten(head_weights: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(head_weights), dim=0).flatten(0, 1)


@rewrite("join_head_weights")
def row_by_row(head_weights: Sequence[Tensor]) -> Tensor:
    rows = [row for weight in head_weights for row in weight]
    return torch.stack(rows)


@rewrite("join_head_weights")
def by_filling(head_weights: Sequence[Tensor]) -> Tensor:
    first = head_weights[0]
    D, C = first.shape
    joined = torch.empty(len(head_weights) * D, C, dtype=first.dtype, device=first.device)
    for h, weight in enumerate(head_weights):
        joined[h * D : (h + 1) * D] = weight
    return joined


# repeat_kv_heads


@probes("repeat_kv_heads")
def _(f: Any) -> list[Any]:
    sizes = [(2, 3, 5, 4, 6), (3, 2, 4, 5, 6), (2, 1, 5, 3, 4), (2, 3, 4, 5, 3), (2, 2, 2, 2, 4)]
    return [
        *(lambda s=s: tuple(f(draw(*s[:4]), s[4]).shape) for s in sizes),
        *(lambda s=s: f(draw(*s[:4]), s[4]) for s in sizes),
        lambda: f(draw(2, 4, 3, 5).transpose(1, 2), 6),
        lambda: f(draw(2, 2, 3, 4, dtype=torch.float64), 4),
        lambda: changed(lambda x: f(x, 4), draw(2, 2, 3, 4)),
        lambda: gradients(lambda x: f(x, 6), draw(1, 2, 3, 4)),
    ]


@mutant(
    "repeat_kv_heads",
    "`repeat` lays the whole set out again and again: 0, 1, 2, 0, 1, 2. Neighbours share: 0, 0, 1, "
    "1, 2, 2, which is `repeat_interleave`.",
)
def whole_set_repeated(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat(1, n_heads // kv.shape[1], 1, 1)


@mutant(
    "repeat_kv_heads",
    "You repeat each head as often as there are query heads. Each serves `n_heads / H_kv` of them.",
)
def repeated_too_often(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(n_heads, dim=1)


@mutant(
    "repeat_kv_heads",
    "You repeat each head as often as there are key-value heads. Each serves `n_heads / H_kv`.",
)
def repeated_by_the_number_of_kv_heads(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(kv.shape[1], dim=1)


@mutant("repeat_kv_heads", "You repeat tokens. Heads are on axis 1.")
def tokens_repeated(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=2)


@mutant("repeat_kv_heads", "You repeat sequences of the batch. Heads are on axis 1.")
def batch_repeated(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=0)


@mutant(
    "repeat_kv_heads",
    "You repeat all numbers, because `repeat_interleave` was given no `dim`. Heads are on axis 1.",
)
def flattened_and_repeated(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(n_heads // kv.shape[1])


@mutant(
    "repeat_kv_heads",
    "All query heads get key-value head 0. Each group has its own.",
)
def first_for_every_group(kv: Tensor, n_heads: int) -> Tensor:
    return kv[:, :1].expand(-1, n_heads, -1, -1)


@mutant(
    "repeat_kv_heads",
    "All query heads get the mean of the key-value heads. Each group has its own.",
)
def mean_for_all(kv: Tensor, n_heads: int) -> Tensor:
    return kv.mean(1, keepdim=True).expand(-1, n_heads, -1, -1)


@mutant("repeat_kv_heads", "You return the heads as they came: there are too few of them.")
def not_repeated(kv: Tensor, n_heads: int) -> Tensor:
    return kv


@mutant(
    "repeat_kv_heads",
    "Your groups have an axis of their own, (B, H_kv, group, T, D): flatten it into the heads'.",
)
def groups_left_apart(kv: Tensor, n_heads: int) -> Tensor:
    return kv.unsqueeze(2).expand(-1, -1, n_heads // kv.shape[1], -1, -1)


@mutant(
    "repeat_kv_heads",
    "You put the new axis behind the tokens and reshape: heads and tokens mix. It belongs right "
    "behind the key-value heads, `unsqueeze(2)`.",
)
def grouped_over_tokens(kv: Tensor, n_heads: int) -> Tensor:
    B, G, T, D = kv.shape
    return kv.unsqueeze(3).expand(B, G, T, n_heads // G, D).reshape(B, n_heads, T, D)


@mutant("repeat_kv_heads", "Your heads are in reverse order.")
def repeated_in_reverse(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=1).flip(1)


@mutant(
    "repeat_kv_heads",
    "You divide what you repeat by the size of the group. Each query head gets the whole.",
)
def divided_by_the_group(kv: Tensor, n_heads: int) -> Tensor:
    group = n_heads // kv.shape[1]
    return kv.repeat_interleave(group, dim=1) / group


@mutant("repeat_kv_heads", "No gradient flows back: no detach(), no .data, no new tensor.")
def repeated_and_detached(kv: Tensor, n_heads: int) -> Tensor:
    return kv.detach().repeat_interleave(n_heads // kv.shape[1], dim=1)


@mutant("repeat_kv_heads", "You return float32 whatever comes in: keep the dtype.")
def repeated_in_float32(kv: Tensor, n_heads: int) -> Tensor:
    return kv.float().repeat_interleave(n_heads // kv.shape[1], dim=1)


@rewrite("repeat_kv_heads")
def by_expanding(kv: Tensor, n_heads: int) -> Tensor:
    B, G, T, D = kv.shape
    return kv[:, :, None].expand(B, G, n_heads // G, T, D).reshape(B, n_heads, T, D)


@rewrite("repeat_kv_heads")
def by_indexing(kv: Tensor, n_heads: int) -> Tensor:
    group = n_heads // kv.size(1)
    return kv[:, torch.arange(n_heads, device=kv.device) // group]


@rewrite("repeat_kv_heads")
def head_by_head(kv: Tensor, n_heads: int) -> Tensor:
    group = n_heads // kv.shape[1]
    return torch.stack([kv[:, h // group] for h in range(n_heads)], dim=1)
