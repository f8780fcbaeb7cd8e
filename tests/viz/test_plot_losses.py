from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from tiny_transformer.runtime.errors import DataError
from tiny_transformer.viz.plots import plot_losses, smoothed

TRAIN = {step: 1.5 + 3 * math.exp(-step / 50) + 0.1 * math.sin(step) for step in range(1, 301)}
CURVES = {"first": {"train": TRAIN, "val": {100: 2.0, 200: 1.75, 300: 1.625}}}


def test_losses_are_drawn_to_every_format(tmp_path: Path) -> None:
    for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        path = tmp_path / "new" / f"losses.{suffix}"
        assert plot_losses(CURVES, path) == path
        assert path.read_bytes().startswith(magic)


def test_the_plot_names_each_run_and_its_last_validation_loss(tmp_path: Path) -> None:
    text = plot_losses({**CURVES, "b$2": CURVES["first"]}, tmp_path / "a.svg").read_text()
    assert text.count("validation, at the end 1.625") == 2
    assert "first: training" in text
    assert "b$2: training" in text


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_losses_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (plot_losses(CURVES, tmp_path / f"{name}.{suffix}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_an_svg_says_neither_when_nor_where_it_was_made(tmp_path: Path) -> None:
    text = plot_losses(CURVES, tmp_path / "plot.svg").read_text()
    assert str(tmp_path) not in text
    assert not re.search(r"<dc:(date|creator)>", text)


def test_a_long_run_makes_no_large_file(tmp_path: Path) -> None:
    long = {step: 2.0 + math.sin(step * 12.9898) for step in range(200_000)}
    assert plot_losses({"long": {"train": long}}, tmp_path / "a.svg").stat().st_size < 200_000


def test_a_run_may_lack_either_curve_and_have_losses_that_are_not_finite(tmp_path: Path) -> None:
    curves = {
        "diverged": {"train": {1: 4.0, 2: math.inf, 3: math.nan}},
        "evaluated": {"val": {10: 2.0}},
        "empty": {},
    }
    text = plot_losses(curves, tmp_path / "a.svg").read_text()
    assert "diverged: training" in text
    assert "evaluated: validation, at the end 2.000" in text
    assert "empty" not in text


@pytest.mark.parametrize("curves", [{}, {"a": {}}, {"a": {"train": {1: math.nan}, "val": {}}}])
def test_nothing_to_draw_is_explained(
    tmp_path: Path, curves: dict[str, dict[str, dict[int, float]]]
) -> None:
    with pytest.raises(DataError, match="no losses"):
        plot_losses(curves, tmp_path / "a.svg")
    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_smoothing_is_the_mean_of_the_neighbours() -> None:
    values = [5.0, 1.0, 3.0, 8.0, 0.0]
    assert smoothed(values, 3).tolist() == [5.0, 3.0, 4.0, 11 / 3, 0.0]
    assert smoothed(values, 100).tolist() == [5.0, 3.0, 17 / 5, 11 / 3, 0.0]
    for width in (0, 1, 2):
        assert smoothed(values, width).tolist() == values
    assert smoothed([], 3).shape == (0,)


def test_smoothing_keeps_a_straight_line() -> None:
    line = np.linspace(4.0, 1.0, 101)
    np.testing.assert_allclose(smoothed(line.tolist(), 21), line, rtol=1e-12)
