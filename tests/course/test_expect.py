"""What a learner reads when numbers differ: the coarsest difference first, and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tiny_transformer.course.content import VARIABLE, CourseError, course_folder
from tiny_transformer.course.expect import (
    Mismatch,
    expect,
    expect_equal,
    expect_gradients,
    expect_part_gradients,
    expect_raises,
    expect_shape,
    expect_unchanged,
)
from tiny_transformer.course.picture import WIDTH, side_by_side

EYE = torch.eye(3)
NAN = torch.tensor([1.0, math.nan])


def failure(call: Callable[[], object]) -> Mismatch:
    with pytest.raises(Mismatch) as caught:
        call()
    return caught.value


@pytest.mark.requirement("course.expect")
@pytest.mark.parametrize(
    ("got", "wanted", "told"),
    [
        (None, EYE, "x should be a tensor, and is nothing (None): is there a return?"),
        ([1], EYE, "x should be a tensor, and is a list."),
        (3, EYE, "x should be a tensor, and is an int."),
        (torch.ones(3), EYE, "shape (3, 3) (rows, columns), and has (3,). It has 1 axes for 2."),
        (torch.ones(2, 3), torch.ones(3, 2), "two axes are swapped"),
        (torch.ones(3, 4), EYE, "Look at the axis columns."),
        (torch.ones(4, 4), EYE, "Look at the axis rows and columns."),
        (EYE.double(), EYE, "should be of dtype torch.float32, and is of torch.float64."),
        (EYE.to("meta"), EYE, "should be on cpu, and is on meta."),
        (EYE + 0.5 * EYE[0], EYE, "3 of 9 values, most at rows 0, columns 0: it is 1.5 and should"),
        (EYE.bool(), ~EYE.bool(), "9 of 9 values, most at rows 0, columns 0: it is True and"),
        (NAN, torch.ones(2), "x has 1 NaN among its 2 values."),
        (torch.ones(2), torch.tensor([1.0, math.inf]), "most at rows 1: it is 1 and should be inf"),
        (torch.tensor(2.0), torch.tensor(3.0), "x is 2 and should be 3. Mind the gap."),
        (torch.tensor(math.nan), torch.tensor(3.0), "x is nan and should be 3."),
        (3, 4, "x should be 4, and is 3. Mind the gap."),
        (None, 4, "x should be 4, and is nothing (None): is there a return?"),
        ("a", "b", "x should be 'b', and is 'a'."),
        (True, 1, "x should be 1, and is True."),
        ((1, 2), [1, 2], "x should be [1, 2], and is (1, 2)."),
    ],
)
def test_each_difference_has_words(got: Any, wanted: Any, told: str) -> None:
    dims = "rows columns"
    error = failure(lambda: expect_equal(got, wanted, "x", dims=dims, note="Mind the gap."))
    assert told in str(error)


@pytest.mark.parametrize(
    ("got", "wanted", "tolerance"),
    [
        (EYE, EYE + 1e-6, 1e-5),
        (EYE, EYE.clone(), 0),
        (NAN, NAN.clone(), 1e-5),
        (torch.tensor(3.0), 3.0, 1e-5),
        (3, 3.0, 1e-5),
        (1_000_001.0, 1_000_000.0, 1e-5),
        ("a", "a", 0),
    ],
)
def test_what_is_equal_passes(got: Any, wanted: Any, tolerance: float) -> None:
    expect_equal(got, wanted, "x", tolerance=tolerance)


@given(st.integers(0, 8), st.floats(0.01, 100), st.sampled_from([1, -1]))
def test_the_place_that_differs_is_found(place: int, by: float, sign: int) -> None:
    got = torch.zeros(3, 3)
    got.view(-1)[place] = by * sign
    error = failure(lambda: expect_equal(got, torch.zeros(3, 3), "x", dims="row column"))
    assert f"1 of 9 values, most at row {place // 3}, column {place % 3}:" in str(error)
    lines = error.picture.splitlines()
    assert [i for i, line in enumerate(lines) if "≠" in line] == [1 + place // 3]


def test_the_smaller_comparisons() -> None:
    expect(True, "so")
    assert str(failure(lambda: expect(0, "so"))) == "so"
    expect_shape(EYE, (3, 3), "x")
    shape: Any = [3, 3]
    assert "is a list." in str(failure(lambda: expect_shape(shape, (3, 3), "x")))
    assert "(3, 3), and has (2, 2)." in str(
        failure(lambda: expect_shape(torch.ones(2, 2), (3, 3), "x"))
    )
    expect_unchanged(EYE, EYE.clone(), "x")
    changed = failure(lambda: expect_unchanged(EYE, EYE + 1, "x"))
    assert "x was changed in place" in str(changed) and "≠" in changed.picture
    assert failure(lambda: expect_unchanged(EYE, EYE[:2], "x")).picture == ""
    expect_raises(ValueError, lambda: int("x"), "int('x')")
    missing = failure(lambda: expect_raises(ValueError, lambda: 1, "f()"))
    assert str(missing) == "f() should raise ValueError, and does not."


@pytest.mark.requirement("course.expect")
def test_the_picture() -> None:
    assert side_by_side(torch.tensor(1.0), torch.tensor(2.0), []) == ""
    mask = torch.ones(2, 2).tril().bool()
    assert side_by_side(mask, mask.T, ["queries", "keys"]) == (
        "yours   expected\n■ ·   ≠ ■ ■\n■ ■   ≠ · ■\n(rows: queries, columns: keys)"
    )
    stack = torch.stack([EYE, EYE])
    other = stack.clone()
    other[1, 2, 2] = 5
    drawn = side_by_side(stack, other, ["batch", "row", "column"])
    assert "expected at batch 1" in drawn and "5.00" in drawn
    wide = side_by_side(torch.zeros(9, 12).long(), torch.ones(9, 12).long(), [])
    assert "(the first 8 of 9 rows and 8 of 12 columns)" in wide
    tall = side_by_side(torch.zeros(9, 5).long(), torch.ones(9, 5).long(), [])
    assert "(the first 8 of 9 rows)" in tall
    flat = side_by_side(torch.zeros(5, 9).long(), torch.ones(5, 9).long(), [])
    assert "(the first 8 of 9 columns)" in flat
    assert "5e+03" in side_by_side(torch.tensor([5000.0]), torch.tensor([1.0]), ["x"])
    assert side_by_side(torch.ones(0, 2), torch.ones(0, 2), []).startswith("yours")


@given(st.integers(1, 12), st.integers(-1, 5))
def test_the_picture_fits_into_a_terminal(columns: int, digits: int) -> None:
    got = torch.full((2, columns), -(10.0**digits))
    drawn = side_by_side(got, got + 1, ["B", "T"]).splitlines()
    assert all(len(line) <= WIDTH for line in drawn)
    shown = len(drawn[1].split()) // 2  # of each side; a sign may stand between
    assert shown == columns or f"(the first {shown} of {columns} columns)" in drawn


@pytest.mark.requirement("course.expect")
def test_a_missing_gradient_has_two_reasons() -> None:
    x = torch.ones(2, dtype=torch.float64)
    error = failure(
        lambda: expect_gradients(
            lambda a, b: a + b.detach(), lambda a, b: a + b, [x, x.clone()], "plus"
        )
    )
    told = "is not used, or there is a .detach() behind it."
    assert str(error) == f"No gradient of plus reaches input 1: it {told}"

    class Detached(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as it is there
            return nn.functional.linear(input, self.weight, self.bias.detach())

    part, wanted = Detached(3, 3).double(), nn.Linear(3, 3).double()
    stream = torch.ones(1, 2, 3, dtype=torch.float64)
    wanted.load_state_dict(part.state_dict())
    error = failure(lambda: expect_part_gradients(part, wanted, stream, "part"))
    assert str(error) == f"No gradient reaches bias: it {told}"


def test_where_the_course_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from tiny_transformer.course import content

    monkeypatch.delenv(VARIABLE, raising=False)
    assert (course_folder() / "01_attention" / "module.yaml").is_file()
    place = tmp_path / "site" / "tiny_transformer" / "course" / "content.py"
    (place.parent / "modules").mkdir(parents=True)
    monkeypatch.setattr(content, "__file__", str(place))
    assert course_folder() == place.parent / "modules"  # as in a wheel
    (place.parent / "modules").rmdir()
    with pytest.raises(CourseError, match="not in this installation"):
        course_folder()
