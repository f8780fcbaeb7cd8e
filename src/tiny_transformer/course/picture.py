"""Small pictures of tensors in text: theirs beside the expected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 8
"""Rows and columns that are drawn at most; what lies beyond is cut off and said."""
WIDTH = 68
"""Characters of a line at most: a terminal of 80 columns has so many for it."""


def side_by_side(got: Tensor, wanted: Tensor, names: Sequence[str]) -> str:
    """Draw the last two axes of two tensors of one shape, at the first place that differs.

    Args:
        got: the learner's.
        wanted: the expected one.
        names: of the axes; those of rows and columns are written beside the picture.

    Returns:
        Lines; `""` for scalars.
    """
    if got.ndim == 0:
        return ""
    where = ""
    while got.ndim > 2:
        first = _first_difference(got, wanted)
        where += f" at {names[0] if names else 'index'} {first}"
        got, wanted, names = got[first], wanted[first], names[1:]
    if got.ndim == 1:
        got, wanted = got[None], wanted[None]
    rows, columns = got.shape
    left, right = _cells(got), _cells(wanted)
    width = max(len(cell) for line in left + right for cell in line) if rows and columns else 1
    drawn = min(columns, MOST, max(1, (WIDTH - 1) // 2 // (width + 1)))
    left, right = ([line[:drawn] for line in lines] for lines in (left, right))
    drawn_left = [" ".join(f"{cell:>{width}}" for cell in line) for line in left]
    drawn_right = [" ".join(f"{cell:>{width}}" for cell in line) for line in right]
    space = max([len(line) for line in drawn_left] + [len("yours")])
    lines = [f"{'yours':<{space}}   expected{where}"]
    for a, b, x, y in zip(drawn_left, drawn_right, left, right, strict=True):
        lines.append(f"{a:<{space}} {' ' if x == y else '≠'} {b}")
    cut = [
        f"{shown} of {there} {what}"
        for shown, there, what in [(min(rows, MOST), rows, "rows"), (drawn, columns, "columns")]
        if shown < there
    ]
    if cut:
        lines.append(f"(the first {' and '.join(cut)})")
    if len(names) == 2:
        lines.append(f"(rows: {names[0]}, columns: {names[1]})")
    return "\n".join(lines)


def _first_difference(got: Tensor, wanted: Tensor) -> int:
    """Return the first index of axis 0 at which the tensors differ most plainly."""
    a, b = got.to(torch.float64).flatten(1), wanted.to(torch.float64).flatten(1)
    differs = ~torch.isclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True).all(dim=1)
    return int(differs.nonzero()[0]) if differs.any() else 0


def _cells(tensor: Tensor) -> list[list[str]]:
    return [[_cell(value) for value in row[:MOST]] for row in tensor[:MOST]]


def _cell(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "■" if value.item() else "·"
    if not value.dtype.is_floating_point:
        return str(value.item())
    return f"{value.item():.3g}" if abs(value.item()) >= 1000 else f"{value.item():.2f}"
