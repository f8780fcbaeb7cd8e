"""Pictures of tensors show their numbers, their rows in memory, and what is stretched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tiny_transformer.runtime.errors import DataError
from tiny_transformer.viz.tensor_pictures import draw_broadcast, draw_memory

pytestmark = pytest.mark.requirement("viz.tensor-pictures")


def cells(figure: Figure, panel: int = 0) -> list[tuple[float, float, str, str]]:
    """Return each cell's left, bottom, colour and number."""
    axes = figure.axes[panel]
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    return [
        (
            patch.get_x(),
            patch.get_y(),
            to_hex(patch.get_facecolor()),
            numbers[patch.get_x() + 0.5, patch.get_y() + 0.5],
        )
        for patch in patches
    ]


@given(st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=15)
def test_each_place_in_memory_has_the_colour_of_the_row_that_it_is_in(
    rows: int, columns: int
) -> None:
    table = torch.arange(rows * columns).view(rows, columns)
    figure = draw_memory([("x", table), ("x.T", table.T)])
    for panel, x in enumerate([table, table.T]):
        drawn = cells(figure, panel)
        above = {number: colour for _, bottom, colour, number in drawn if bottom > 0.5}
        below = {number: colour for _, bottom, colour, number in drawn if bottom < 0.5}
        assert above == below  # a number is its place here
        assert set(above) == {str(n) for n in range(rows * columns)}
        for row in x.tolist():
            assert len({above[str(n)] for n in row}) == 1
        assert len(set(above.values())) == len(x)
        assert f"shape {tuple(x.shape)}, strides {x.stride()}" in figure.axes[panel].get_title()


def test_memory_that_a_view_does_not_look_at_is_white() -> None:
    column = torch.arange(6).view(2, 3)[:, 1:2]
    below = [cell for cell in cells(draw_memory([("column", column)])) if cell[1] < 0.5]
    assert [number for *_, colour, number in below if colour != "#ffffff"] == ["1", "4"]
    assert len(below) == 6


def test_masks_are_drawn_as_noughts_and_ones() -> None:
    mask = torch.tensor([[True, False]])
    assert [cell[3] for cell in cells(draw_memory([("mask", mask)]))] == ["1", "0"] * 2


@pytest.mark.parametrize(
    ("a", "b", "n_real"),
    [((3, 1), (4,), 3 + 4 + 12), ((2, 3), (2, 3), 18), ((1, 1), (2, 5), 1 + 10 + 10)],
)
def test_what_is_stretched_is_white_and_what_is_there_is_not(
    a: tuple[int, ...], b: tuple[int, ...], n_real: int
) -> None:
    x, y = torch.ones(a), torch.full(b, 2.0)
    drawn = cells(draw_broadcast(x, y))
    assert sum(colour != "#ffffff" for *_, colour, _ in drawn) == n_real
    assert len(drawn) == 3 * (x + y).numel()
    assert [number for *_, number in drawn].count("3") == (x + y).numel()


@pytest.mark.parametrize(
    ("draw", "part"),
    [
        (lambda: draw_memory([("x", torch.zeros(3))]), "x has the shape (3,); a picture takes two"),
        (lambda: draw_memory([("x", torch.zeros(3, 9))]), "(3, 9); a picture takes two axes of at"),
        (lambda: draw_broadcast(torch.zeros(3), torch.zeros(3)), "the sum has the shape (3,)"),
        (
            lambda: draw_broadcast(torch.zeros(3, 2), torch.zeros(3)),
            "Shapes (3, 2) and (3,) cannot be broadcast together.",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: object, part: str) -> None:
    assert callable(draw)
    with pytest.raises(DataError) as caught:
        draw()
    assert part in str(caught.value)
