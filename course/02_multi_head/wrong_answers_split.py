"""Module 02, wrong answers: splitting and merging heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tiny_transformer.course.inputs import changed, draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

# split_heads


def numbered(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape).float()


def gradient(f: Any, x: Tensor) -> Any:
    leaf = x.clone().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return "none"
    y.square().sum().backward()
    return leaf.grad


@probes("split_heads")
def _(f: Any) -> list[Any]:
    sizes = [(2, 5, 12, 3), (1, 2, 4, 2), (3, 4, 8, 1), (1, 3, 6, 6), (2, 4, 8, 2), (3, 3, 9, 3)]
    return [
        *(lambda s=s: tuple(f(draw(*s[:3]), s[3]).shape) for s in sizes),
        *(lambda s=s: f(numbered(*s[:3]), s[3]) for s in sizes),
        lambda: f(numbered(4, 3, 6).transpose(0, 1), 2),
        lambda: f(numbered(2, 3, 4).to(torch.int64), 2),
        lambda: f(draw(2, 3, 4, dtype=torch.float64), 2),
        lambda: changed(lambda x: f(x, 2), draw(2, 3, 4)),
        lambda: gradient(lambda x: f(x, 2), draw(2, 3, 4)),
    ]


@mutant(
    "split_heads",
    "You view the numbers as (B, H, T, D) at once. Memory has the tokens outside and the heads "
    "inside, so head 0 gets the first tokens whole, instead of a piece of every token: view as "
    "(B, T, H, D) first, and then transpose.",
)
def viewed_without_a_transpose(x: Tensor, n_heads: int) -> Tensor:
    B, T, C = x.shape
    return x.view(B, n_heads, T, C // n_heads)


@mutant(
    "split_heads",
    "Your heads stay behind the tokens: (B, T, H, D). Transpose axes 1 and 2.",
)
def heads_behind_the_tokens(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1))


@mutant(
    "split_heads",
    "Your heads take every H-th channel, as if the channels were (D, H). Head h gets D channels "
    "in a row: view as (B, T, H, D).",
)
def channels_in_turn(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)


@mutant(
    "split_heads",
    "The last two axes are swapped: (B, H, D, T). Tokens come before the channels of a head.",
)
def width_before_tokens(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1)).permute(0, 2, 3, 1)


@mutant(
    "split_heads",
    "You cut the tokens into heads instead of the channels: every head should have all tokens.",
)
def tokens_cut(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(1, (n_heads, -1))


@mutant(
    "split_heads",
    "The number of heads and the width of a head are exchanged: H comes first, and D = C / H is "
    "what is left.",
)
def heads_and_width_exchanged(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (-1, n_heads)).transpose(1, 2)


@mutant(
    "split_heads",
    "Your heads come before the batch: (H, B, T, D). The batch stays first.",
)
def heads_before_the_batch(x: Tensor, n_heads: int) -> Tensor:
    return torch.stack(x.chunk(n_heads, dim=-1))


@mutant(
    "split_heads",
    "Every head gets all channels. Each gets its own C / H of them.",
)
def all_channels_for_each(x: Tensor, n_heads: int) -> Tensor:
    return x.unsqueeze(1).expand(-1, n_heads, -1, -1)


@mutant("split_heads", "Your heads are in reverse order: head 0 has the first channels.")
def heads_in_reverse(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2).flip(1)


@mutant(
    "split_heads",
    "You transpose batch and heads instead of tokens and heads: axes 1 and 2 change places.",
)
def batch_and_heads_transposed(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1)).transpose(0, 2)


@mutant(
    "split_heads",
    "Your view asks for one way of lying in memory and fails for a transposed input: `reshape` or "
    "`unflatten` take any.",
)
def view_of_contiguous_memory(x: Tensor, n_heads: int) -> Tensor:
    B, T, C = x.shape
    return x.view(B * T, C).view(B, T, n_heads, C // n_heads).transpose(1, 2)


@mutant("split_heads", "You return a list of heads. Stack them: one tensor, (B, H, T, D).")
def list_of_heads(x: Tensor, n_heads: int) -> Any:
    return list(x.chunk(n_heads, dim=-1))


@mutant("split_heads", "No gradient flows back: no detach(), no .data, no new tensor.")
def split_and_detached(x: Tensor, n_heads: int) -> Tensor:
    return x.detach().unflatten(-1, (n_heads, -1)).transpose(1, 2)


@mutant("split_heads", "You return float32 whatever comes in: keep the dtype.")
def split_to_float32(x: Tensor, n_heads: int) -> Tensor:
    return x.float().unflatten(-1, (n_heads, -1)).transpose(1, 2)


@rewrite("split_heads")
def by_view_and_transpose(x: Tensor, n_heads: int) -> Tensor:
    B, T, C = x.size()
    return x.reshape(B, T, n_heads, C // n_heads).permute(0, 2, 1, 3).contiguous()


@rewrite("split_heads")
def by_chunks(x: Tensor, n_heads: int) -> Tensor:
    return torch.stack(torch.chunk(x, n_heads, dim=2), dim=1)


@rewrite("split_heads")
def by_slices(x: Tensor, n_heads: int) -> Tensor:
    D = x.shape[-1] // n_heads
    return torch.stack([x[:, :, h * D : (h + 1) * D] for h in range(n_heads)], 1)


# merge_heads


@probes("merge_heads")
def _(f: Any) -> list[Any]:
    sizes = [(2, 3, 5, 4), (1, 2, 2, 2), (3, 1, 4, 6), (1, 6, 3, 1), (2, 4, 4, 2), (3, 3, 3, 3)]
    return [
        *(lambda s=s: tuple(f(draw(*s)).shape) for s in sizes),
        *(lambda s=s: f(numbered(*s)) for s in sizes),
        lambda: f(numbered(2, 4, 3, 5).transpose(1, 2)),
        lambda: f(numbered(2, 3, 4, 2).to(torch.int64)),
        lambda: f(draw(2, 3, 4, 2, dtype=torch.float64)),
        lambda: changed(f, draw(2, 3, 4, 2)),
        lambda: gradient(f, draw(2, 3, 4, 2)),
    ]


@mutant(
    "merge_heads",
    "You reshape (B, H, T, D) to (B, T, C) at once, which mixes heads and tokens: the first token "
    "gets what head 0 found for several tokens. Transpose heads and tokens first.",
)
def reshaped_without_a_transpose(heads: Tensor) -> Tensor:
    B, H, T, D = heads.shape
    return heads.reshape(B, T, H * D)


@mutant(
    "merge_heads",
    "Your channels are (D, H): the heads take turns. Head 0's channels come first, all D of them.",
)
def channels_of_heads_in_turn(heads: Tensor) -> Tensor:
    return heads.permute(0, 2, 3, 1).flatten(-2)


@mutant("merge_heads", "You add the heads up. Put them side by side: (B, T, H * D).")
def heads_added(heads: Tensor) -> Tensor:
    return heads.sum(dim=1)


@mutant("merge_heads", "You average the heads. Put them side by side: (B, T, H * D).")
def heads_averaged(heads: Tensor) -> Tensor:
    return heads.mean(dim=1)


@mutant(
    "merge_heads",
    "You flatten heads and tokens into one axis. The heads' axis joins that of the channels.",
)
def heads_merged_with_tokens(heads: Tensor) -> Tensor:
    return heads.flatten(1, 2)


@mutant("merge_heads", "Your heads are in reverse order: head 0 gives the first channels.")
def merged_in_reverse(heads: Tensor) -> Tensor:
    return heads.flip(1).transpose(1, 2).flatten(-2)


@mutant(
    "merge_heads",
    "You transpose and leave the heads' axis in: join the last two axes.",
)
def an_axis_left(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2)


@mutant(
    "merge_heads",
    "`view` fails after a transpose, since the numbers do not lie in that order: `reshape`, "
    "`flatten` or `contiguous()` copy them.",
)
def viewed_after_the_transpose(heads: Tensor) -> Tensor:
    B, H, T, D = heads.shape
    return heads.transpose(1, 2).view(B, T, H * D)


@mutant("merge_heads", "You return the first head alone. All of them, side by side.")
def first_head_alone(heads: Tensor) -> Tensor:
    return heads[:, 0]


@mutant("merge_heads", "No gradient flows back: no detach(), no .data, no new tensor.")
def merged_and_detached(heads: Tensor) -> Tensor:
    return heads.detach().transpose(1, 2).flatten(-2)


@mutant("merge_heads", "You return float32 whatever comes in: keep the dtype.")
def merged_to_float32(heads: Tensor) -> Tensor:
    return heads.float().transpose(1, 2).flatten(-2)


@mutant(
    "merge_heads",
    "You swap tokens and channels of each head before you join them: (B, H, D, T). Swap heads and "
    "tokens.",
)
def wrong_axes_transposed(heads: Tensor) -> Tensor:
    B, H, T, D = heads.shape
    return heads.transpose(2, 3).reshape(B, T, H * D)


@rewrite("merge_heads")
def by_contiguous_view(heads: Tensor) -> Tensor:
    B, H, T, D = heads.shape
    return heads.transpose(1, 2).contiguous().view(B, T, H * D)


@rewrite("merge_heads")
def by_concatenation(heads: Tensor) -> Tensor:
    return torch.cat([heads[:, h] for h in range(heads.shape[1])], dim=-1)


@rewrite("merge_heads")
def by_permute_and_reshape(heads: Tensor) -> Tensor:
    moved = heads.permute(0, 2, 1, 3)
    return moved.reshape(*moved.shape[:2], -1)
