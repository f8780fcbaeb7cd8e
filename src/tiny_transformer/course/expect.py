"""How the tests of exercises compare: with shapes named, the worst place, and a picture.

`expect_equal` and its like raise `Mismatch`, whose text tells a learner in which way their
tensor is not the expected one, the coarsest difference first: type, shape, dtype, device,
then numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.course.inputs import draw
from tiny_transformer.course.picture import side_by_side


class Mismatch(AssertionError):  # noqa: N818 - it reads as what it is in a learner's terminal
    """An answer that is not the expected one.

    Attributes:
        picture: theirs beside the expected, several lines; empty where none helps.
    """

    def __init__(self, text: str, picture: str = "") -> None:
        super().__init__(text)
        self.picture = picture


def expect(holds: Any, text: str) -> None:
    """Raise `Mismatch` with `text` unless `holds`."""
    if not bool(holds):
        raise Mismatch(text)


def expect_equal(
    got: Any,
    wanted: Any,
    what: str,
    *,
    dims: str = "",
    tolerance: float = 1e-5,
    note: str = "",
) -> None:
    """Compare an answer with what is expected.

    Args:
        got: the learner's: a tensor, or a plain value.
        wanted: the expected one.
        what: what was computed, for instance `causal_mask(3, 3)`.
        dims: names of the axes, separated by spaces, for instance `"queries keys"`.
        tolerance: largest difference allowed between numbers, absolute and relative; 0
            asks for equality.
        note: a sentence to add when the numbers differ.

    Raises:
        Mismatch: they differ; the text says how.
    """
    if not isinstance(wanted, Tensor):
        _expect_plain(got, wanted, what, tolerance, note)
        return
    if not isinstance(got, Tensor):
        returned = "nothing (None): is there a return?" if got is None else f"{_kind(got)}."
        raise Mismatch(f"{what} should be a tensor, and is {returned}")
    expect_shape(got, tuple(wanted.shape), what, dims)
    if got.dtype != wanted.dtype:
        raise Mismatch(f"{what} should be of dtype {wanted.dtype}, and is of {got.dtype}.")
    if got.device != wanted.device:
        raise Mismatch(f"{what} should be on {wanted.device}, and is on {got.device}.")
    a, b = got.detach().to(torch.float64), wanted.detach().to(torch.float64)
    if torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
        return
    raise Mismatch(
        " ".join(filter(None, [_worst(a, b, got, wanted, what, dims.split(), tolerance), note])),
        side_by_side(got.detach(), wanted.detach(), dims.split()),
    )


def expect_shape(got: Tensor, wanted: Sequence[int], what: str, dims: str = "") -> None:
    """Raise `Mismatch` unless `got` has the shape `wanted`; axes are named by `dims`."""
    if not isinstance(got, Tensor):
        raise Mismatch(f"{what} should be a tensor, and is {_kind(got)}.")
    shape = tuple(got.shape)
    if shape == tuple(wanted):
        return
    names = dims.split()
    named = ", ".join(names) if names else ""
    order = f" ({named})" if named else ""
    text = f"{what} should have the shape {_shape(wanted)}{order}, and has {_shape(shape)}."
    if len(shape) != len(wanted):
        text += f" It has {len(shape)} axes for {len(wanted)}."
    elif sorted(shape) == sorted(wanted):
        text += " The sizes are right and their order is not: two axes are swapped."
    elif names:
        wrong = [n for n, a, b in zip(names, shape, wanted, strict=False) if a != b]
        text += f" Look at the axis {' and '.join(wrong)}."
    raise Mismatch(text)


def expect_unchanged(before: Tensor, after: Tensor, what: str) -> None:
    """Raise `Mismatch` if an input was written to."""
    if before.shape != after.shape or not torch.equal(before, after):
        raise Mismatch(
            f"{what} was changed in place: a caller would not expect that. Operations whose name "
            "ends in an underscore, and assignments to slices, write into their input.",
            side_by_side(after, before, []) if before.shape == after.shape else "",
        )


def expect_raises(kind: type[Exception], call: Any, what: str) -> None:
    """Raise `Mismatch` unless `call()` raises `kind`."""
    try:
        call()
    except kind:
        return
    raise Mismatch(f"{what} should raise {kind.__name__}, and does not.")


def expect_gradients(
    call: Callable[..., Any], wanted: Callable[..., Tensor], inputs: Sequence[Tensor], what: str
) -> None:
    """Compare the gradients that flow back to the inputs, through theirs and through another.

    Args:
        call: the learner's function.
        wanted: one that computes the same.
        inputs: what both are called with, float64.
        what: the name of what is called.
    """
    gradients = []
    for function in (call, wanted):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        expect(
            isinstance(y, Tensor) and y.requires_grad,
            f"No gradient flows back through {what}: is there a .detach(), .data, .item() or "
            "torch.no_grad() in it, or a new torch.tensor(...)?",
        )
        pull = draw(*y.shape, seed=99, dtype=y.dtype)
        gradients.append(torch.autograd.grad(y, leaves, pull, allow_unused=True))
    for i, (got, right) in enumerate(zip(*gradients, strict=True)):
        expect(
            got is not None,
            f"No gradient of {what} reaches input {i}: it is not used, or there is a .detach() "
            "behind it.",
        )
        expect_equal(got, right, f"the gradient of {what} by input {i}", tolerance=1e-6)


def expect_part_gradients(part: nn.Module, wanted: nn.Module, x: Tensor, what: str) -> None:
    """Compare the gradients that reach the input and every weight of a part, and of another.

    Args:
        part: the learner's.
        wanted: one with the same weights under the same names.
        x: the input, float64 `(B, T, C)`, the shape of the output too.
        what: the part's name.
    """
    pull = draw(*x.shape, seed=9, dtype=x.dtype)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for module, leaf in zip((part, wanted), inputs, strict=True):
        y = module(leaf)
        expect(
            y.requires_grad,
            f"No gradient flows back through {what}: is there a .detach() or torch.no_grad() in "
            "it?",
        )
        y.backward(pull)
    theirs = dict(part.named_parameters())
    for name, parameter in wanted.named_parameters():
        got = theirs[name].grad
        expect(
            got is not None,
            f"No gradient reaches {name}: it is not used, or there is a .detach() behind it.",
        )
        expect_equal(got, parameter.grad, f"the gradient of {name}", tolerance=1e-6)
    expect(inputs[0].grad is not None, "No gradient reaches the input: is there a .detach()?")
    expect_equal(inputs[0].grad, inputs[1].grad, "the gradient of x", dims="B T C", tolerance=1e-6)


def _expect_plain(got: Any, wanted: Any, what: str, tolerance: float, note: str) -> None:
    if isinstance(got, Tensor) and got.ndim == 0 and isinstance(wanted, (bool, int, float)):
        got = got.item()
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (got, wanted))
    if numbers:
        same = abs(got - wanted) <= tolerance * max(1.0, abs(wanted))
    else:
        same = type(got) is type(wanted) and got == wanted
    if not same:
        shown = "nothing (None): is there a return?" if got is None else f"{got!r}."
        raise Mismatch(
            " ".join(filter(None, [f"{what} should be {wanted!r}, and is {shown}", note]))
        )


def _worst(
    a: Tensor,
    b: Tensor,
    got: Tensor,
    wanted: Tensor,
    what: str,
    names: list[str],
    tolerance: float,
) -> str:
    """Say how many numbers differ and where the largest difference is."""
    if not a.ndim:
        return f"{what} is {_number(got)} and should be {_number(wanted)}."
    strange = a.isnan() & ~b.isnan()
    if strange.any():
        return f"{what} has {int(strange.sum())} NaN among its {a.numel()} values."
    difference = torch.where(a == b, torch.zeros_like(a), (a - b).abs())
    difference = torch.nan_to_num(difference, nan=torch.inf, posinf=torch.inf)
    n_wrong = int((difference > tolerance * (1 + b.abs().nan_to_num(posinf=0.0))).sum())
    place = torch.unravel_index(difference.argmax(), difference.shape)
    index = tuple(int(i) for i in place)
    named = [
        f"{names[i] if i < len(names) else f'axis {i}'} {value}" for i, value in enumerate(index)
    ]
    return (
        f"{what} differs from what is expected in {n_wrong} of {a.numel()} values, most at "
        f"{', '.join(named)}: it is {_number(got[index])} and should be {_number(wanted[index])}."
    )


def _number(value: Tensor) -> str:
    return str(value.item()) if value.dtype in (torch.bool, torch.int64) else f"{value.item():.6g}"


def _shape(sizes: Sequence[int]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
