"""Pictures that explain positions: what they show is what was computed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tiny_transformer.model.positional import sinusoidal_table
from tiny_transformer.runtime.errors import DataError
from tiny_transformer.viz.position_pictures import draw_by_distance, draw_heat, draw_turns


@pytest.mark.requirement("viz.position-pictures")
def test_a_heat_map_shows_the_numbers_with_nought_in_the_middle() -> None:
    table = torch.tensor([[0.0, -3.0], [1.0, 2.0], [0.5, 0.0]])
    figure = draw_heat([("code", table), ("nothing", torch.zeros(2, 2))], "position", "channel")
    panels: list[Any] = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["code", "nothing"]
    assert panels[0].images[0].get_array().tolist() == table.tolist()
    assert panels[0].images[0].get_clim() == (-3.0, 3.0)
    assert panels[1].images[0].get_clim() == (-1.0, 1.0)
    assert (panels[0].get_ylabel(), panels[0].get_xlabel()) == ("position", "channel")
    with pytest.raises(DataError, match=r"'row' has 1 axes"):
        draw_heat([("row", torch.zeros(3))], "a", "b")


@pytest.mark.requirement("viz.position-pictures")
def test_the_likeness_of_sinusoidal_codes_is_a_mean_of_cosines() -> None:
    figure = draw_by_distance([("waves", sinusoidal_table(21, 8))], around=10)
    line: Any = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == list(range(-10, 11))
    for distance, share in zip(line.get_xdata(), line.get_ydata(), strict=True):
        wanted = sum(math.cos(distance / 10000 ** (2 * i / 8)) for i in range(4)) / 4
        assert share == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(DataError, match="'waves' has 5 positions, and 5 is none"):
        draw_by_distance([("waves", sinusoidal_table(5, 8))], around=5)


@pytest.mark.requirement("viz.position-pictures")
def test_arrows_point_where_their_angles_say() -> None:
    figure = draw_turns([("q and k", [("q", 0.0, 0), ("k", math.pi / 2, 1)]), ("none", [])])
    assert [axes.get_title() for axes in figure.axes] == ["q and k", "none"]
    texts = figure.axes[0].texts
    arrows: list[Any] = [text for text in texts if not text.get_text()]
    tips = [tuple(round(value, 6) for value in arrow.xy) for arrow in arrows]
    assert tips == [(1.0, 0.0), (0.0, 1.0)]
    assert [text.get_text() for text in texts if text.get_text()] == ["q", "k"]
