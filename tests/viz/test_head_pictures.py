"""Pictures of heads show where each number goes, and which heads share."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from tiny_transformer.runtime.errors import DataError
from tiny_transformer.viz.head_pictures import draw_groups, draw_split

pytestmark = pytest.mark.requirement("viz.head-pictures")


def labels(axes: Axes) -> list[list[str]]:
    """Return the texts inside of cells, row by row from the top."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for text in axes.texts:
        left, bottom = text.get_position()
        if left > 0:
            rows.setdefault(bottom, []).append((left, text.get_text()))
    return [[label for _, label in sorted(rows[y])] for y in sorted(rows, reverse=True)]


def test_a_split_shows_each_head_and_what_a_view_alone_would_take() -> None:
    tokens, split, viewed = draw_split(3, 2, 2).axes
    assert labels(tokens) == [[f"{t}{c}" for c in range(4)] for t in "abc"]
    assert labels(split) == [
        ["a0", "a1"], ["b0", "b1"], ["c0", "c1"],
        ["a2", "a3"], ["b2", "b3"], ["c2", "c3"],
    ]  # fmt: skip
    assert labels(viewed) == [
        ["a0", "a1"], ["a2", "a3"], ["b0", "b1"],
        ["b2", "b3"], ["c0", "c1"], ["c2", "c3"],
    ]  # fmt: skip
    heads = [text.get_text() for text in split.texts if text.get_position()[0] < 0]
    assert heads == ["head 0", "head 1"]


def test_a_token_keeps_its_colour_in_every_panel() -> None:
    colours: dict[str, set[str]] = {}
    for axes in draw_split(3, 2, 3).axes:
        cells = [p for p in axes.patches if isinstance(p, Rectangle)]
        names = {text.get_position(): text.get_text() for text in axes.texts}
        for cell in cells:
            name = names[cell.get_x() + 0.5, cell.get_y() + 0.5]
            colours.setdefault(name[0], set()).add(to_hex(cell.get_facecolor()))
    assert set(colours) == set("abc")
    assert len(set.union(*colours.values())) == len(colours) == 3


@pytest.mark.parametrize(("T", "H", "D"), [(7, 2, 2), (3, 4, 4)])
def test_too_many_to_be_drawn_are_refused(T: int, H: int, D: int) -> None:
    with pytest.raises(DataError, match="cannot be drawn; at most 6 of 12"):
        draw_split(T, H, D)


def test_groups_join_each_query_head_with_the_one_it_uses() -> None:
    whole, grouped, single = draw_groups(4, (4, 2, 1)).axes
    for axes, count in ((whole, 4), (grouped, 2), (single, 1)):
        texts = {text.get_text(): text.get_position() for text in axes.texts}
        assert {name for name in texts if name[0] == "k"} == {f"kv{g}" for g in range(count)}
        for h, line in enumerate(axes.lines):
            ends = [float(x) for x in line.get_xdata()]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
            assert ends == [texts[f"q{h}"][0], texts[f"kv{h * count // 4}"][0]]
        assert len(axes.lines) == 4
        assert str(count) in axes.get_title()
    with pytest.raises(DataError, match="3 key-value heads cannot serve 4 query heads equally"):
        draw_groups(4, (3,))
    with pytest.raises(DataError, match="0 key-value heads"):
        draw_groups(4, (0,))
