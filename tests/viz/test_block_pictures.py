"""Pictures that explain a block: what they show is what was computed."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import tensor

from tiny_transformer.runtime.errors import DataError
from tiny_transformer.viz.block_pictures import (
    draw_bends,
    draw_blocks,
    draw_depth,
    draw_shared_statistics,
)


@pytest.mark.requirement("viz.block-pictures")
def test_blocks_are_drawn_with_their_parts_and_their_sums() -> None:
    upper, lower = draw_blocks(2).axes
    for axes in (upper, lower):
        written = [text.get_text() for text in axes.texts if text.get_text()]
        assert sorted(set(written)) == ["+", "MLP", "attention", "norm"]
        assert {name: written.count(name) for name in ("+", "MLP", "attention", "norm")} == {
            "+": 4, "MLP": 2, "attention": 2, "norm": 4,
        }  # fmt: skip
    heights = [
        {round(text.get_position()[1], 1) for text in axes.texts if text.get_text() == "norm"}
        for axes in (upper, lower)
    ]
    assert heights == [{0.8}, {0.0}] or heights == [{0.9}, {0.0}]  # beside the stream, on it


def test_numbers_that_share_statistics_have_one_colour() -> None:
    figure = draw_shared_statistics(2, 3, 4)
    colours = [[tuple(patch.get_facecolor()) for patch in axes.patches] for axes in figure.axes]
    tables = ([row[4 * i : 4 * i + 4] for i in range(6)] for row in colours)
    by_token, by_channel, by_sequence = tables
    assert all(len(set(row)) == 1 for row in by_token)
    assert len({row[0] for row in by_token}) == 6
    assert by_channel[0] == by_channel[5]
    assert len(set(by_channel[0])) == 4
    assert len({tuple(row) for row in by_sequence}) == 2


@pytest.mark.requirement("viz.block-pictures")
def test_the_bend_is_gelu_and_the_slope_its_derivative() -> None:
    value, slope, off = draw_bends(-2.0, 2.0).axes
    x = tensor(value.lines[1].get_xdata()).double().requires_grad_()
    y = F.gelu(x)
    assert value.lines[1].get_ydata() == pytest.approx(y.tolist())
    y.sum().backward()
    assert x.grad is not None
    assert slope.lines[1].get_ydata() == pytest.approx(x.grad.tolist())
    difference = 1e4 * (F.gelu(x, approximate="tanh") - F.gelu(x))
    assert off.lines[0].get_ydata() == pytest.approx(difference.tolist(), abs=1e-6)


@pytest.mark.requirement("viz.block-pictures")
def test_depth_is_drawn_place_by_place() -> None:
    curves = {"one": [1.0, 2.0, 4.0], "two": [3.0, 3.0, 3.0]}
    figure = draw_depth([("a", curves), ("b", {"x": [1]})])
    first, second = figure.axes
    assert first.lines[0].get_ydata() == pytest.approx([1.0, 2.0, 4.0])
    assert first.lines[0].get_xdata() == pytest.approx([0, 1, 2])
    assert first.get_yscale() == "log"
    legend = first.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert second.get_title() == "b"
    assert draw_depth([("a", {"x": [0.0, 1.0]})], log=False).axes[0].get_yscale() == "linear"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(DataError, match="'empty' has no curve"):
        draw_depth([("empty", {})])
    with pytest.raises(DataError, match="'zero' has a number"):
        draw_depth([("a", {"zero": [1.0, 0.0]})])
