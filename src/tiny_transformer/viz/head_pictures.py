"""Pictures of heads: how tokens are cut into them, and which of them share keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from tiny_transformer.runtime.errors import DataError

_COLOURS = ("#cfe3f5", "#fde2c4", "#d5ecd0", "#f3d1dc", "#e4dcf1", "#f6efb9")
_LETTERS = "abcdef"
_MOST_CHANNELS = 12


def draw_split(n_tokens: int, n_heads: int, head_dim: int) -> Figure:
    """Draw tokens, their heads, and what a view without a transpose takes for heads.

    A token has a letter and a colour, a channel a number: `b4` is channel 4 of token b.

    Args:
        n_tokens: T, at most 6.
        n_heads: H.
        head_dim: D, channels of a head; at most 12 of all heads together.

    Raises:
        DataError: there are too many to be drawn.
    """
    width = n_heads * head_dim
    if n_tokens > len(_LETTERS) or width > _MOST_CHANNELS:
        raise DataError(
            f"{n_tokens} tokens of {width} channels cannot be drawn; at most {len(_LETTERS)} of "
            f"{_MOST_CHANNELS} can."
        )
    x = torch.arange(n_tokens * width).view(n_tokens, width)
    panels = [
        (f"tokens: (T, C) = ({n_tokens}, {width})", x[None], ""),
        ("view(T, H, D).transpose(0, 1)", x.view(n_tokens, n_heads, -1).transpose(0, 1), "head"),
        ("view(H, T, D): no heads", x.view(n_heads, n_tokens, -1), "head"),
    ]
    rows = n_heads * (n_tokens + 1)
    columns = [width, head_dim + 2, head_dim + 2]
    figure = Figure(figsize=(0.42 * sum(columns) + 2.6, 0.36 * rows + 0.7), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[c + 1.6 for c in columns])
    for panel, (title, tables, name) in zip(axes, panels, strict=True):
        panel.set_title(title, fontsize=9)
        _draw_tables(panel, tables, name, width, rows)
    return figure


def _draw_tables(axes: Axes, tables: Tensor, name: str, width: int, rows: int) -> None:
    """Draw (tables, rows, columns) numbers below each other; a number says token and channel."""
    n_tables, n_rows, n_columns = tables.shape
    height = n_tables * (n_rows + 1) - 1
    top = (rows - 1 + height) / 2
    for number, table in enumerate(tables.tolist()):
        if name:
            middle = top - number * (n_rows + 1) - n_rows / 2
            axes.text(-0.2, middle, f"{name} {number}", ha="right", va="center", fontsize=8)
        for i, row in enumerate(table):
            bottom = top - number * (n_rows + 1) - i - 1
            for j, value in enumerate(row):
                token, channel = divmod(value, width)
                axes.add_patch(Rectangle((j, bottom), 1, 1, facecolor=_COLOURS[token],
                                         edgecolor="black", linewidth=0.7))  # fmt: skip
                axes.text(j + 0.5, bottom + 0.5, f"{_LETTERS[token]}{channel}", ha="center",
                          va="center", fontsize=8)  # fmt: skip
    axes.set_xlim(-1.7 if name else -0.1, n_columns + 0.1)
    axes.set_ylim(-0.6, rows - 0.4)
    axes.set_aspect("equal")
    axes.set_axis_off()


def draw_groups(n_heads: int, kv_heads: Sequence[int]) -> Figure:
    """Draw which key-value head each query head uses, once for each number of key-value heads.

    Args:
        n_heads: heads of queries.
        kv_heads: numbers of key-value heads; each divides `n_heads`.

    Raises:
        DataError: one does not.
    """
    for count in kv_heads:
        if count < 1 or n_heads % count:
            raise DataError(f"{count} key-value heads cannot serve {n_heads} query heads equally.")
    figure = Figure(figsize=(0.5 * n_heads * len(kv_heads) + 1.2, 1.9), layout="constrained")
    for axes, count in zip(
        figure.subplots(1, len(kv_heads), squeeze=False)[0], kv_heads, strict=True
    ):
        group = n_heads // count
        for h in range(n_heads):
            shared = h // group
            left = (shared + 0.5) * group - 0.5
            axes.plot([h, left], [1.65, 0.85], color="#777777", linewidth=1)
            _box(axes, h, 2, f"q{h}", _COLOURS[shared % len(_COLOURS)])
        for g in range(count):
            _box(axes, (g + 0.5) * group - 0.5, 0.5, f"kv{g}", _COLOURS[g % len(_COLOURS)])
        axes.set_title(f"{count} of keys and values", fontsize=9)
        axes.set_xlim(-0.7, n_heads - 0.3)
        axes.set_ylim(0, 2.5)
        axes.set_axis_off()
    return figure


def _box(axes: Axes, middle: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(Rectangle((middle - 0.4, height - 0.35), 0.8, 0.7, facecolor=colour,
                             edgecolor="black", linewidth=0.7))  # fmt: skip
    axes.text(middle, height, text, ha="center", va="center", fontsize=7)
