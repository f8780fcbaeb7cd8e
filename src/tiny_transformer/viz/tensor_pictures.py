"""Pictures of small tensors: how one lies in memory, and how two are broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from tiny_transformer.runtime.errors import DataError

_COLOURS = ("#cfe3f5", "#fde2c4", "#d5ecd0", "#f3d1dc", "#e4dcf1", "#f6efb9", "#d9d9d9", "#c8ebe8")
_PALE = "#9a9a9a"
_MOST = 8  # rows or columns that can still be read


def draw_memory(tensors: Sequence[tuple[str, Tensor]]) -> Figure:
    """Draw tensors of two axes as tables, and below each the memory that it looks at.

    A row of the table has one colour, and so do the places in memory that it is made of.

    Args:
        tensors: each with a name; at most 8 rows and columns.

    Raises:
        DataError: a tensor has not two axes, or too many rows or columns.
    """
    for name, x in tensors:
        _check_small(name, x)
    figure = Figure(figsize=(5.2 * len(tensors), 3.2), layout="constrained")
    panels = figure.subplots(1, len(tensors), squeeze=False)[0]
    for axes, (name, x) in zip(panels, tensors, strict=True):
        rows, columns = x.shape
        size = x.untyped_storage().nbytes() // x.element_size()
        memory = x.as_strided((size,), (1,), 0)
        offset, (down, right) = x.storage_offset(), x.stride()
        colour_at = {
            offset + i * down + j * right: _COLOURS[i] for i in range(rows) for j in range(columns)
        }
        left = (size - columns) / 2
        for i in range(rows):
            for j in range(columns):
                _cell(axes, left + j, rows + 1.2 - i, x[i, j], _COLOURS[i])
        for place in range(size):
            _cell(axes, place, 0, memory[place], colour_at.get(place, "white"))
            axes.text(place + 0.5, -0.35, place, ha="center", va="center", fontsize=6, color=_PALE)
        axes.text(-0.2, 0.5, "memory", ha="right", va="center", fontsize=8)
        shape, strides = tuple(x.shape), tuple(x.stride())
        axes.set_title(f"{name}: shape {shape}, strides {strides}", fontsize=9)
        _bare(axes, (-2.6, size + 0.2), (-0.8, rows + 2.4))
    return figure


def draw_broadcast(a: Tensor, b: Tensor) -> Figure:
    """Draw the sum of two small tensors: what is stretched is pale.

    Args:
        a: one or two axes, at most 8 rows and columns.
        b: as `a`.

    Raises:
        DataError: the sum has not two axes, or too many rows or columns, or there is none.
    """
    try:
        total = a + b
    except RuntimeError:
        raise DataError(
            f"Shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be broadcast together."
        ) from None
    _check_small("the sum", total)
    rows, columns = total.shape
    figure = Figure(figsize=(0.5 * (3 * columns + 6), 0.5 * rows + 0.9), layout="constrained")
    axes = figure.subplots()
    for number, (x, sign) in enumerate([(a, "+"), (b, "="), (total, "")]):
        left = number * (columns + 1.6)
        own = (1,) * (2 - x.ndim) + tuple(x.shape)
        whole = x.expand(rows, columns)
        for i in range(rows):
            for j in range(columns):
                real = i < own[0] and j < own[1]
                colour = _COLOURS[number] if real else "white"
                _cell(axes, left + j, rows - 1 - i, whole[i, j], colour, pale=not real)
        axes.text(left + columns / 2, rows + 0.45, str(tuple(x.shape)), ha="center", fontsize=9)
        axes.text(left + columns + 0.8, rows / 2, sign, ha="center", va="center", fontsize=14)
    _bare(axes, (-0.2, 3 * columns + 3.4), (-0.2, rows + 0.9))
    return figure


def _check_small(name: str, x: Tensor) -> None:
    if x.ndim != 2 or max(x.shape) > _MOST:
        raise DataError(
            f"{name} has the shape {tuple(x.shape)}; a picture takes two axes of at most {_MOST}."
        )


def _cell(
    axes: Axes, left: float, bottom: float, value: Tensor, colour: str, *, pale: bool = False
) -> None:
    edge = "#cccccc" if pale else "black"
    axes.add_patch(Rectangle((left, bottom), 1, 1, facecolor=colour, edgecolor=edge, linewidth=0.8))
    number = f"{value.item():g}" if value.dtype != torch.bool else str(int(value))
    axes.text(left + 0.5, bottom + 0.5, number, ha="center", va="center", fontsize=8,
              color=_PALE if pale else "black")  # fmt: skip


def _bare(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.set_aspect("equal")
    axes.set_axis_off()
