"""Pictures that explain a transformer block: its stream, its norms, its bend, and depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from tiny_transformer.runtime.errors import DataError

_BLUE, _ORANGE, _GREY = "#2f6fb0", "#d9822b", "#8a8a8a"
_CURVES = (_BLUE, _ORANGE, "#3d8f5f", "#a04a8c")
_TINTS = ("#cfe0f1", "#f6d9b8", "#cfe6d5", "#e6cfe0", "#f3e7a9", "#dcdcdc", "#bfd8d8", "#f1c9c9")
_FILL = {"norm": "#f6d9b8", "attention": "#cfe0f1", "MLP": "#cfe6d5"}


def draw_blocks(n_blocks: int = 2) -> Figure:
    """Draw the residual stream through blocks, Pre-LN above and Post-LN below.

    Args:
        n_blocks: how many; each has an attention and an MLP.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    _draw_pre_norm(upper, 2 * n_blocks)
    _draw_post_norm(lower, 2 * n_blocks)
    return figure


def _draw_pre_norm(axes: Axes, n_branches: int) -> None:
    _stream(axes, n_branches, "Pre-LN: the stream is only added to")
    for i in range(n_branches):
        left, part = 2.2 * i + 0.5, ("attention", "MLP")[i % 2]
        _arrow(axes, (left, 0), (left, 0.62))
        _box(axes, left, 0.85, "norm")
        _arrow(axes, (left + 0.42, 0.85), (left + 0.68, 0.85))
        _box(axes, left + 1.1, 0.85, part)
        _arrow(axes, (left + 1.1, 0.62), (left + 1.1, 0.13))
        _plus(axes, left + 1.1)


def _draw_post_norm(axes: Axes, n_branches: int) -> None:
    _stream(axes, n_branches, "Post-LN: the stream goes through every norm")
    for i in range(n_branches):
        left, part = 2.2 * i + 0.3, ("attention", "MLP")[i % 2]
        _arrow(axes, (left, 0), (left, 0.85), head=False)
        _arrow(axes, (left, 0.85), (left + 0.2, 0.85))
        _box(axes, left + 0.62, 0.85, part)
        _arrow(axes, (left + 0.9, 0.62), (left + 0.9, 0.13))
        _plus(axes, left + 0.9)
        _box(axes, left + 1.55, 0, "norm")


def _stream(axes: Axes, n_branches: int, title: str) -> None:
    end = 2.2 * n_branches + 0.3
    axes.plot([-0.2, end], [0, 0], color=_BLUE, linewidth=3, solid_capstyle="butt", zorder=1)
    axes.annotate("", (end + 0.25, 0), (end - 0.05, 0),
                  arrowprops={"arrowstyle": "-|>", "color": _BLUE, "linewidth": 3})  # fmt: skip
    axes.set_xlim(-0.3, end + 0.3)
    axes.set_ylim(-0.4, 1.25)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_axis_off()


def _box(axes: Axes, x: float, y: float, text: str) -> None:
    patch = FancyBboxPatch(
        (x - 0.38, y - 0.2), 0.76, 0.4, boxstyle="round,pad=0.02", zorder=3,
        facecolor=_FILL[text], edgecolor="#555555", linewidth=0.8,
    )  # fmt: skip
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=8, zorder=4)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], *, head: bool = True
) -> None:
    style = {"arrowstyle": "-|>" if head else "-", "color": "#555555", "linewidth": 1.0,
             "shrinkA": 0, "shrinkB": 0}  # fmt: skip
    axes.annotate("", end, start, arrowprops=style)


def _plus(axes: Axes, x: float) -> None:
    axes.plot([x], [0], "o", color="white", markeredgecolor=_BLUE, markersize=13, zorder=3)
    axes.text(x, -0.01, "+", ha="center", va="center", fontsize=11, color=_BLUE, zorder=4)


def draw_shared_statistics(n_sequences: int = 2, n_tokens: int = 3, width: int = 6) -> Figure:
    """Draw which numbers share a mean and a variance, by colour: three ways to normalise.

    Args:
        n_sequences: sequences of the batch.
        n_tokens: in each of them; a row of the table is a token.
        width: channels, the columns.
    """
    rows = n_sequences * n_tokens
    token = torch.arange(rows)[:, None].expand(rows, width)
    channel = torch.arange(width)[None].expand(rows, width)
    panels = [
        ("LayerNorm: each token", token),
        ("BatchNorm: each channel", channel),
        ("a mistake: each sequence", token // n_tokens),
    ]
    figure = Figure(figsize=(8.4, 2.5), layout="constrained")
    for axes, (title, groups) in zip(figure.subplots(1, 3), panels, strict=True):
        for i, row in enumerate(groups.tolist()):
            for j, group in enumerate(row):
                axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1],
                          color=_TINTS[group % len(_TINTS)], edgecolor="white")  # fmt: skip
        for line in range(n_tokens, rows, n_tokens):
            axes.axhline(line, color="#333333", linewidth=1.2)
        axes.set_xlim(0, width)
        axes.set_ylim(rows, 0)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks(
            [i + 0.5 for i in range(rows)],
            [f"sequence {i // n_tokens}, token {i % n_tokens}" for i in range(rows)],
            fontsize=7,
        )
        if axes is not figure.axes[0]:
            axes.set_yticklabels([])
        axes.tick_params(length=0)
        axes.set_xlabel("channels", fontsize=8)
        axes.set_title(title, fontsize=9)
    return figure


def draw_bends(low: float = -4.0, high: float = 4.0) -> Figure:
    """Draw GELU beside ReLU, their slopes, and how far GELU's tanh form is off.

    Args:
        low: left end of the axis.
        high: right end.
    """
    x = torch.linspace(low, high, 401, dtype=torch.float64)
    below = torch.special.ndtr(x)
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    tanh = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    figure = Figure(figsize=(9.6, 2.6), layout="constrained")
    value, slope, off = figure.subplots(1, 3)
    _line(value, x, x.clamp(min=0), _GREY, "ReLU", "--")
    _line(value, x, x * below, _BLUE, "GELU")
    value.set_title("the bend", fontsize=9)
    _line(slope, x, (x > 0).double(), _GREY, "ReLU", "--")
    _line(slope, x, below + x * density, _BLUE, "GELU")
    slope.set_title("its slope", fontsize=9)
    _line(off, x, 1e4 * (tanh - x * below), _ORANGE, "")
    off.set_title("tanh form minus exact form, times 10,000", fontsize=9)
    for axes in (value, slope, off):
        axes.axhline(0, color="#cccccc", linewidth=0.6, zorder=0)
        axes.set_xlabel("x", fontsize=8)
        _plain(axes)
    value.legend(fontsize=8, frameon=False)
    slope.legend(fontsize=8, frameon=False)
    return figure


def _line(axes: Axes, x: Tensor, y: Tensor, colour: str, label: str, style: str = "-") -> None:
    axes.plot(x.tolist(), y.tolist(), style, color=colour, label=label, linewidth=1.5)


def draw_depth(
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    *,
    xlabel: str = "place in the stream",
    log: bool = True,
) -> Figure:
    """Draw curves over the places of a deep stream, several panels side by side.

    Args:
        panels: each a title, and curves by label; a curve has a number for each place, from
            before the first block to behind the last.
        xlabel: what the places are.
        log: whether the vertical axes are logarithmic.

    Raises:
        DataError: a panel has no curve, or a number on a logarithmic axis is not above 0.
    """
    figure = Figure(figsize=(1.2 + 3.4 * len(panels), 2.9), layout="constrained")
    for axes, (title, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        if not curves:
            raise DataError(f"The panel {title!r} has no curve to draw.")
        for i, (label, numbers) in enumerate(curves.items()):
            if log and not all(number > 0 for number in numbers):
                raise DataError(f"{label!r} has a number that a logarithmic axis cannot show.")
            axes.plot(range(len(numbers)), list(numbers), "-", color=_CURVES[i % len(_CURVES)],
                      label=label, linewidth=1.6)  # fmt: skip
        if log:
            _logarithmic(axes, [number for numbers in curves.values() for number in numbers])
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(xlabel, fontsize=8)
        axes.legend(fontsize=8, frameon=False)
        _plain(axes)
    return figure


def _logarithmic(axes: Axes, numbers: Sequence[float]) -> None:
    """Set the scale; where it spans little, write 0.2, 0.5 and 1, and not powers of ten."""
    axes.set_yscale("log")
    if max(numbers) > 1000 * min(numbers):
        return
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
