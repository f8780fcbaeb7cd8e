"""Pictures that explain positions: codes as heat maps, likeness by distance, turning arrows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tiny_transformer.runtime.errors import DataError

_COLOURS = ("#2f6fb0", "#d9822b", "#5a9a56", "#8a6bb8")
_PALE = "#9a9a9a"


def draw_heat(panels: Sequence[tuple[str, Tensor]], rows: str, columns: str) -> Figure:
    """Draw tables of numbers as heat maps side by side: red above zero, blue below.

    Args:
        panels: each a title and a (rows, columns) tensor, float; white is 0, and the colours end
            at each table's own largest absolute value.
        rows: what the rows are.
        columns: what the columns are.

    Raises:
        DataError: a tensor has not two axes.
    """
    for title, table in panels:
        if table.ndim != 2:
            raise DataError(f"{title!r} has {table.ndim} axes; a heat map has two.")
    figure = Figure(figsize=(3.9 * len(panels), 3.1), layout="constrained")
    for axes, (title, table) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        largest = table.abs().max().item() or 1.0
        image = axes.imshow(
            table.detach().double().cpu().numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest,
            aspect="auto", interpolation="nearest",
        )  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(columns, fontsize=8)
        axes.set_ylabel(rows, fontsize=8)
        axes.tick_params(labelsize=7)
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=6)
    return figure


def draw_by_distance(curves: Sequence[tuple[str, Tensor]], around: int) -> Figure:
    """Draw how alike the code of one position is to those before and after it.

    Args:
        curves: each a label and a (positions, channels) table; drawn are the dot products of row
            `around` with every row, as a share of that with itself.
        around: the position that others are compared with.

    Raises:
        DataError: a table has no such row.
    """
    figure = Figure(figsize=(6.4, 2.7), layout="constrained")
    axes = figure.subplots()
    for (label, table), colour in zip(curves, _COLOURS * len(curves), strict=False):
        if not 0 <= around < len(table):
            raise DataError(f"{label!r} has {len(table)} positions, and {around} is none of them.")
        products = (table @ table[around]).detach().double()
        shares = (products / products[around]).tolist()
        axes.plot([p - around for p in range(len(table))], shares, color=colour, label=label,
                  linewidth=1.4)  # fmt: skip
    axes.axhline(0, color=_PALE, linewidth=0.6)
    axes.set_xlabel("distance", fontsize=8)
    axes.set_ylabel("dot product, as a share", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def draw_turns(panels: Sequence[tuple[str, Sequence[tuple[str, float, int]]]]) -> Figure:
    """Draw arrows of length one in the plane, each turned by an angle.

    Args:
        panels: each a title and its arrows: a label for the tip, the angle in radians from the
            axis to the right, and the number of its colour, 0 to 3.
    """
    figure = Figure(figsize=(2.5 * len(panels), 2.7), layout="constrained")
    for axes, (title, arrows) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _draw_circle(axes)
        for label, angle, colour in arrows:
            x, y = math.cos(angle), math.sin(angle)
            axes.annotate("", (x, y), (0, 0), arrowprops={
                "arrowstyle": "-|>", "color": _COLOURS[colour], "shrinkA": 0, "shrinkB": 0,
                "linewidth": 1.3,
            })  # fmt: skip
            axes.text(1.2 * x, 1.2 * y, label, ha="center", va="center", fontsize=8,
                      color=_COLOURS[colour])  # fmt: skip
        axes.set_title(title, fontsize=9, pad=-8)
    return figure


def _draw_circle(axes: Axes) -> None:
    turn = [2 * math.pi * i / 90 for i in range(91)]
    axes.plot([math.cos(a) for a in turn], [math.sin(a) for a in turn], color=_PALE, linewidth=0.6)
    axes.set_xlim(-1.4, 1.4)
    axes.set_ylim(-1.4, 1.4)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
