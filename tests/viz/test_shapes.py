"""`check_shape` and `Shapes`: names hold sizes, and errors say which disagreed and where."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.runtime.errors import TinyError
from tiny_transformer.viz.caller import CallSite
from tiny_transformer.viz.shapes import ShapeError, Shapes, check_shape

pytestmark = pytest.mark.requirement("viz.check-shape")

names = st.text("BTCHDVF", min_size=1, max_size=3)


def zeros(*sizes: int) -> torch.Tensor:
    return torch.zeros(sizes)


def message(x: Any, spec: str, name: str = "", /, **sizes: Any) -> str:
    with pytest.raises(ShapeError) as caught:
        check_shape(x, spec, name, **sizes)
    return str(caught.value)


@given(st.dictionaries(names, st.integers(0, 4), max_size=4), st.data())
def test_a_shape_made_from_its_spec_fits_and_binds_every_name(
    sizes: dict[str, int], data: st.DataObject
) -> None:
    spec = data.draw(st.lists(st.sampled_from(sorted(sizes)), max_size=4)) if sizes else []
    x = zeros(*(sizes[name] for name in spec))
    assert check_shape(x, " ".join(spec)) == {name: sizes[name] for name in spec}


@given(st.lists(st.integers(0, 3), max_size=4), st.lists(names, max_size=4))
def test_it_agrees_with_a_plain_loop(shape: list[int], spec: list[str]) -> None:
    """The loop: as many axes as names, and one size a name."""
    fits, bound = len(shape) == len(spec), dict[str, int]()
    for name, size in zip(spec, shape, strict=False):
        fits = fits and bound.setdefault(name, size) == size
    try:
        assert check_shape(zeros(*shape), " ".join(spec)) == bound
        assert fits
    except ShapeError:
        assert not fits


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.integers(1, 3), max_size=3))
def test_a_product_gives_the_size_of_the_factor_that_is_unknown(
    heads: int, width: int, leading: list[int]
) -> None:
    x = zeros(*leading, heads * width)
    assert check_shape(x, "... (H D)", H=heads) == {"H": heads, "D": width}
    assert check_shape(x, "... (H D)", D=width) == {"H": heads, "D": width}
    assert check_shape(x, f"... (H {width})") == {"H": heads}
    assert check_shape(zeros(heads * width, heads), "(H D) H") == {"H": heads, "D": width}


@given(st.lists(st.integers(1, 3), min_size=2, max_size=5))
def test_dots_stand_for_any_axes_wherever_they_are(shape: list[int]) -> None:
    x = zeros(*shape)
    assert check_shape(x, "... Z") == {"Z": shape[-1]}
    assert check_shape(x, "A ...") == {"A": shape[0]}
    assert check_shape(x, "A ... Z") == {"A": shape[0], "Z": shape[-1]}
    assert check_shape(x, "...") == {}
    assert check_shape(x, " ".join("_" * len(shape))) == {}


def test_what_is_bound_goes_on_to_the_next_check_and_comes_back() -> None:
    bound = check_shape(zeros(2, 5, 8), "B T C", C=8, V=99)
    assert bound == {"C": 8, "V": 99, "B": 2, "T": 5}
    assert check_shape(zeros(2, 3, 5, 7), "B H T S", **bound) == bound | {"H": 3, "S": 7}
    assert zeros(bound["B"], bound["T"]).shape == (2, 5)  # a size is a number like any other
    assert copy.deepcopy(bound) == bound


def test_anything_with_a_shape_is_checked() -> None:
    assert check_shape(np.zeros((2, 3)), "B T") == {"B": 2, "T": 3}
    assert check_shape(torch.tensor(1.0), "") == {}
    assert check_shape(zeros(2, 3).to("meta"), "B T") == {"B": 2, "T": 3}


def test_the_error_says_who_gave_the_name_its_size_and_where() -> None:
    q, k = zeros(2, 4, 5, 16), zeros(2, 4, 7, 16)
    bound = check_shape(q, "B H T D")
    line = test_the_error_says_who_gave_the_name_its_size_and_where.__code__.co_firstlineno + 2
    with pytest.raises(ShapeError) as caught:
        check_shape(k, "B H T D", **bound)
    assert str(caught.value) == (
        'k has the shape (2, 4, 7, 16), and "B H T D" asks for (2, 4, 5, 16): '
        f"T is 5 by q (line {line}), and 7 in k (dim 2)."
    )


def test_an_error_is_one_for_people() -> None:
    assert issubclass(ShapeError, TinyError)


SWAP = "is a transpose missing or too many?"


@pytest.mark.parametrize(
    ("shape", "spec", "sizes", "parts"),
    [
        ((2, 5), "B T C", {}, ["x has the shape (2, 5)", "(B, T, C)", "it has 2 axes for 3"]),
        ((2, 5, 7), "... D D", {}, ["(..., 5, 5)", "D is 5 on dim 1, and 7 in x (dim 2)."]),
        ((5,), "... T C", {}, ["(5,)", "(..., T, C)", "it has 1 axis for at least 2"]),
        ((), "B", {"B": 3}, ["the shape ()", "asks for (3,)", "it has 0 axes for 1"]),
        ((2, 5, 8), "B T C", {"C": 9}, ["(2, 5, 9)", "C is 9 as given, and 8 in x (dim 2)."]),
        ((5, 7), "T T", {}, ["(5, 5)", "T is 5 on dim 0, and 7 in x (dim 1)."]),
        ((2, 3, 4), "B 7 _", {}, ["(2, 7, _)", "dim 1 should be 7, and is 3."]),
        ((2, 4), "B 1", {}, ["dim 1 should be 1, and is 4."]),
        (
            (2, 30),
            "B (H D)",
            {"H": 4, "D": 8},
            ["(2, 32)", "(H D) is 32, as H is 4 as given, D is 8 as given, and it is 30 in x"],
        ),
        ((2, 30), "B (H D)", {"H": 4}, ["(H D) is 30 in x (dim 1), which is not a multiple of"]),
        ((6, 30), "H (H D)", {"D": 4}, ["(H D) is 24, as H is 6 on dim 0, D is 4 as given"]),
        ((3, 5), "T D", {"T": 5, "D": 3}, ["T is 5", "D is 3", f"dims 0 and 1 exchanged: {SWAP}"]),
        ((2, 5, 4, 16), "B H T D", {"H": 4}, ["H is 4", f"dims 1 and 2 exchanged: {SWAP}"]),
        ((2, 0), "B (H D)", {"H": 0, "D": 3, "B": 1}, ["B is 1 as given, and 2 in x (dim 0)."]),
    ],
)
def test_what_is_wrong_with_a_shape(
    shape: tuple[int, ...], spec: str, sizes: dict[str, int], parts: list[str]
) -> None:
    x = zeros(*shape)
    text = message(x, spec, **sizes)
    for part in parts:
        assert part in text
    if not any(SWAP in part for part in parts):
        assert SWAP not in text


@pytest.mark.parametrize(
    ("spec", "sizes", "part"),
    [
        ("B,T", {}, "'B,T' in the spec \"B,T\" is no axis. Separate axes by spaces. An axis is"),
        ("B *rest", {}, "'*rest'"),
        ("B -1", {}, "'-1'"),
        ("B (H D", {}, "'('"),
        ("B ()", {}, "'()' in the spec \"B ()\" names nothing"),
        ("B (H _)", {}, "'_'"),
        ("... T ...", {}, "has ... twice"),
        ("B (H D)", {}, "(H D) is a product of unknown sizes: give that of H or of D"),
        ("B T", {"T": 5.0}, "T should be given as a whole number, and is 5.0."),
        ("B T", {"T": -1}, "T should be given as a whole number, and is -1."),
        ("B T", {"T": True}, "T should be given as a whole number, and is True."),
    ],
)
def test_what_cannot_be_read(spec: str, sizes: dict[str, Any], part: str) -> None:
    assert part in message(zeros(2, 6), spec, **sizes)


@pytest.mark.parametrize("value", [None, [1, 2], (zeros(2),), 3.0])
def test_what_is_no_tensor_is_named_with_its_type(value: Any) -> None:
    assert message(value, "B T") == (
        f'x should be a tensor with the axes "B T", and is of type {type(value).__name__}.'
    )


def test_all_checks_in_a_context_agree_also_those_in_functions_it_calls() -> None:
    def attention(q: torch.Tensor, k: torch.Tensor) -> None:
        check_shape(q, "B T C")
        check_shape(k, "B T C")

    with Shapes(C=8) as shapes:
        attention(zeros(2, 5, 8), zeros(2, 5, 8))
        assert shapes.sizes == {"C": 8, "B": 2, "T": 5}
        with pytest.raises(ShapeError, match=r"T is 5 by q \(line \d+\), and 7 in k \(dim 1\)"):
            attention(zeros(2, 5, 8), zeros(2, 7, 8))
    attention(zeros(3, 6, 9), zeros(3, 6, 9))  # nothing is held after it


def test_a_context_inside_a_context_has_names_of_its_own() -> None:
    with Shapes() as outer:
        check_shape(zeros(5), "T")
        with Shapes() as inner:
            check_shape(zeros(7), "T")
        check_shape(zeros(5), "T")
        with outer:  # the same one again
            check_shape(zeros(5), "T")
    assert (outer["T"], inner["T"]) == (5, 7)


def test_an_exception_ends_a_context() -> None:
    with pytest.raises(KeyError), Shapes(T=5):
        raise KeyError
    check_shape(zeros(7), "T")


def test_a_check_that_fails_binds_nothing() -> None:
    shapes = Shapes(C=8)
    x = zeros(2, 5, 9)
    with pytest.raises(ShapeError):
        shapes.check(x, "B T C")
    assert shapes.sizes == {"C": 8}
    assert repr(shapes) == "Shapes(C=8)"


def test_two_sizes_for_one_name_are_refused_with_both_origins() -> None:
    shapes = Shapes()
    keys = zeros(2, 5)
    shapes.check(keys, "B T")
    with pytest.raises(ShapeError, match=r"T has two sizes: 5 by keys \(line \d+\), and 9 as giv"):
        shapes.check(keys, "B T", T=9)


def test_a_name_without_a_size_says_which_have_one() -> None:
    with pytest.raises(ShapeError, match=r"S has no size. Names that have one: none yet."):
        Shapes()["S"]
    with pytest.raises(ShapeError, match=r"S has no size. Names that have one: B, T."):
        Shapes(B=1, T=2)["S"]


def test_a_name_that_is_given_is_used_instead_of_the_source() -> None:
    bound = check_shape(zeros(5), "T", "the queries")
    text = message(zeros(7), "T", "the keys", **bound)
    assert text.startswith("the keys has the shape (7,)")
    assert "T is 5 by the queries (line" in text
    assert "and 7 in the keys (dim 0)." in text


def test_without_a_source_the_error_is_whole_but_for_the_name() -> None:
    scope: dict[str, Any] = {"check_shape": check_shape, "q": zeros(5), "k": zeros(7)}
    exec("bound = check_shape(q, 'T')", scope)
    with pytest.raises(ShapeError) as caught:
        exec("check_shape(k, 'T', **bound)", scope)
    assert str(caught.value) == (
        'the tensor has the shape (7,), and "T" asks for (5,): '
        "T is 5 by another tensor (line 1), and 7 in the tensor (dim 0)."
    )
    text = message(zeros(7), "T", **scope["bound"])
    assert "T is 5 by another tensor (line 1 of another cell), and 7 in x" in text


def test_an_argument_that_is_unpacked_is_not_quoted() -> None:
    arguments = (zeros(2, 3), "T T")
    with pytest.raises(ShapeError, match=r"^the tensor has the shape \(2, 3\)"):
        check_shape(*arguments)


def test_an_argument_is_quoted_over_several_lines_and_with_letters_of_several_bytes() -> None:
    größe = zeros(2, 3)
    with pytest.raises(ShapeError, match=r"^größe\.transpose\(0, 1\) has"):
        check_shape(
            größe.transpose(0, 1),
            "T T",
        )
    with pytest.raises(ShapeError, match=r"^the tensor has the shape"):  # too long to be quoted
        check_shape(größe.transpose(0, 1).transpose(0, 1).transpose(0, 1).transpose(0, 1), "T T")


def test_a_call_inside_a_call_is_quoted_alone() -> None:
    keys = zeros(2, 3)
    with pytest.raises(ShapeError, match=r"^keys has the shape"):
        print(check_shape(keys, "T T"), 1)


def test_the_file_is_named_where_it_is_another_one(tmp_path: Any) -> None:
    path = tmp_path / "my_attention.py"
    path.write_text("def bind(check_shape, q):\n    return check_shape(q, 'T')\n")
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    bound = scope["bind"](check_shape, zeros(5))
    text = message(zeros(7), "T", **bound)
    assert "T is 5 by q (line 2 of my_attention.py), and 7 in x" in text


def test_a_file_that_has_changed_since_it_was_run_has_no_name(tmp_path: Any) -> None:
    path = tmp_path / "changing.py"
    source = "def check(check_shape, q):\n    check_shape(q, 'T T')\n"
    path.write_text("def check(:\n  then ( what ) is ( this\n")
    scope: dict[str, Any] = {}
    exec(compile(source, str(path), "exec"), scope)
    with pytest.raises(ShapeError, match=r"^the tensor has the shape \(2, 3\)"):
        scope["check"](check_shape, zeros(2, 3))


def test_a_call_without_positions_has_no_name() -> None:
    """As under `python -X no_debug_ranges`, and where the call has no argument."""
    code = compile("f()", "<test>", "eval")
    assert CallSite(code, 10_000, 1).first_argument() == ""


def test_the_size_of_an_empty_product_leaves_its_factor_open() -> None:
    assert "not a multiple" in message(zeros(2, 0), "B (H D)", H=0)
    assert check_shape(zeros(2, 0), "B (H D)", H=3) == {"H": 3, "B": 2, "D": 0}


@given(st.lists(st.integers(1, 3), max_size=4), st.lists(st.integers(1, 3), max_size=4))
def test_numbers_ask_for_exactly_that_shape(shape: list[int], wanted: list[int]) -> None:
    spec = " ".join(map(str, wanted))
    if shape == wanted:
        assert check_shape(zeros(*shape), spec) == {}
        assert check_shape(zeros(math.prod(shape)), f"({spec or 1})") == {}
    else:
        message(zeros(*shape), spec)
