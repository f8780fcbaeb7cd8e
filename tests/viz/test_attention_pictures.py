"""Pictures that explain attention: what they show is what was computed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from tiny_transformer.runtime.errors import DataError
from tiny_transformer.viz.attention_pictures import (
    draw_cost,
    draw_saturation,
    draw_temperatures,
    draw_weights,
    measure_saturation,
)
from tiny_transformer.viz.plots import save_figure


def texts(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


@pytest.mark.requirement("viz.attention-pictures")
def test_weights_are_drawn_with_their_numbers_and_names() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])
    mask = torch.tensor([[True, False, False], [True, True, False]])
    figure = draw_weights([("w", weights), ("m", mask)], ["a", "b"], ["x", "y", "z"])
    assert texts(figure) == [["1.00", "0.00", "0.00", "0.25", "0.75", "0.00"], []]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.images[0].get_array().tolist() == weights.tolist()  # pyright: ignore[reportOptionalMemberAccess]
    assert "query" in axes.get_ylabel()
    many = draw_weights([("large", torch.eye(13))], [str(i) for i in range(13)])
    assert texts(many) == [[]]
    with pytest.raises(DataError, match=r"'w' has the shape \(2, 3\).* 2 names.* and 2 of keys"):
        draw_weights([("w", weights)], ["a", "b"])


def test_temperatures_are_drawn_as_softmax_bars() -> None:
    scores = torch.tensor([0.0, math.log(3)])
    figure = draw_temperatures(scores, (0.5, 1))
    heights = [[round(bar.get_height(), 6) for bar in axes.patches] for axes in figure.axes]  # pyright: ignore[reportAttributeAccessIssue]
    assert heights == [[0.1, 0.9], [0.25, 0.75]]


@pytest.mark.requirement("viz.attention-pictures")
def test_saturation_is_measured_as_the_theory_says() -> None:
    for width in (16, 64, 256):
        plain = measure_saturation(width, scaled=False)
        scaled = measure_saturation(width, scaled=True)
        assert plain.variance == pytest.approx(width, rel=0.1)
        assert scaled.variance == pytest.approx(plain.variance / width)
        assert 64 >= scaled.n_keys > 35 > 5 > plain.n_keys >= 1
        assert scaled.largest < 0.15 < 0.5 < plain.largest
    assert plain.gradient < scaled.gradient / 5
    one = measure_saturation(1, scaled=False)
    assert one == measure_saturation(1, scaled=True)


def test_the_gradient_of_the_measurement_is_autograds() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(256, 8, generator=generator, dtype=torch.float64)
    k = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    arriving = torch.randn(256, 5, generator=generator, dtype=torch.float64)
    scores = (q @ k.T).requires_grad_()
    (gradient,) = torch.autograd.grad(scores.softmax(-1), scores, arriving)
    wanted = gradient.norm(dim=-1).median().item()
    assert measure_saturation(8, scaled=False, n_keys=5).gradient == pytest.approx(wanted)


@pytest.mark.requirement("viz.attention-pictures")
def test_curves_go_through_what_is_computed(tmp_path: Path) -> None:
    figure = draw_cost(256, 256, 1024)
    projections, mixing = figure.axes[0].lines[:2]
    assert projections.get_xdata().tolist() == mixing.get_xdata().tolist()  # pyright: ignore[reportAttributeAccessIssue]
    at = list(projections.get_xdata()).index(512)  # pyright: ignore[reportArgumentType]
    assert projections.get_ydata()[at] == mixing.get_ydata()[at] == 268.435456  # pyright: ignore[reportIndexIssue]
    assert save_figure(draw_saturation((1, 4)), tmp_path / "saturation.svg").stat().st_size > 1000
