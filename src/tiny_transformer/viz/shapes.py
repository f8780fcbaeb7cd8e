"""Shapes with named axes: `check_shape`, and a trace of the shapes along a forward pass.

    bound = check_shape(x, "B T C", C=256)       # {"C": 256, "B": 2, "T": 5}
    check_shape(q, "B H T D", **bound)           # B and T must be those of x

    with Shapes():                               # or: all checks inside must agree
        check_shape(q, "B H T D")
        check_shape(k, "B H T D")

An error says which name disagreed, and where it got its size:

    k has the shape (2, 4, 7, 16), and "B H T D" asks for (2, 4, 5, 16): T is 5 by q (line 2),
    and 7 in k (dim 2).

`ShapeTracer` (in `shape_tracer`) prints what goes into each part of a model and comes out.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any

from tiny_transformer.viz.caller import CallSite
from tiny_transformer.viz.shape_spec import Axis, Conflict, Match, ShapeError, match, parse_spec
from tiny_transformer.viz.shape_tracer import ShapeTracer

__all__ = ["ShapeError", "ShapeTracer", "Shapes", "check_shape"]


class _Size(int):
    """A size that remembers which tensor it is of, also as a value in a dict."""

    tensor: str
    site: CallSite

    def __new__(cls, value: int, tensor: str, site: CallSite) -> _Size:
        size = super().__new__(cls, value)
        size.tensor, size.site = tensor, site
        return size

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)  # a copy is a plain number


class Shapes:
    """Names of axes and their sizes, on which all checks through it must agree.

    As a context, it holds every `check_shape` inside the block, also those in functions that
    the block calls. A name gets its size where it is first seen. A check that fails leaves
    the names as they were.

    Args:
        sizes: what is known from the start, by name.

    Raises:
        ShapeError: a size is not a whole number.
    """

    def __init__(self, **sizes: int) -> None:
        self._sizes = _merge({}, sizes, CallSite.of(sys._getframe(1)))
        self._tokens: list[Token[Shapes | None]] = []

    @property
    def sizes(self) -> dict[str, int]:
        """The names that have a size, and their sizes."""
        return dict(self._sizes)

    def __getitem__(self, name: str) -> int:
        """Return the size of a name.

        Raises:
            ShapeError: no tensor has given it one.
        """
        if name not in self._sizes:
            known = ", ".join(self._sizes) or "none yet"
            raise ShapeError(f"{name} has no size. Names that have one: {known}.")
        return self._sizes[name]

    def __repr__(self) -> str:
        return f"Shapes({', '.join(f'{name}={size}' for name, size in self._sizes.items())})"

    def __enter__(self) -> Shapes:
        self._tokens.append(_active.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _active.reset(self._tokens.pop())

    def check(self, x: Any, spec: str, name: str = "", /, **sizes: int) -> dict[str, int]:
        """Check a tensor against the names bound so far; see `check_shape`."""
        return self._check(x, spec, name, sizes, CallSite.of(sys._getframe(1)))

    def _check(
        self, x: Any, spec: str, name: str, given: Mapping[str, int], site: CallSite
    ) -> dict[str, int]:
        axes, known = parse_spec(spec), _merge(self._sizes, given, site)
        shape = getattr(x, "shape", None)
        if shape is None:
            raise ShapeError(
                f"{name or site.first_argument() or 'The value'} should be a tensor with the axes "
                f'"{spec}", and is of type {type(x).__name__}.'
            )
        found = match(axes, shape, known)
        if not found.fits:
            tensor = name or site.first_argument() or "the tensor"
            raise ShapeError(_explain(found, axes, spec, tuple(shape), tensor, known, site))
        self._sizes = known | {n: _Size(size, name, site) for n, size in found.sizes.items()}
        return self.sizes


_active: ContextVar[Shapes | None] = ContextVar("shapes", default=None)


def check_shape(x: Any, spec: str, name: str = "", /, **sizes: int) -> dict[str, int]:
    """Check that a tensor has the named axes, and return their sizes.

    | in the spec | stands for |
    |---|---|
    | `T` | an axis; all axes of that name have one size |
    | `3` | an axis of that size |
    | `_` | an axis of any size |
    | `(H D)` | an axis of size `H * D`; the size of one of them may be unknown |
    | `...` | any number of axes |

    Inside `with Shapes():` the names also hold for all other checks in the block.

    Args:
        x: a tensor, or anything else that has a `shape`.
        spec: the axes in order, separated by spaces, for instance `"B T d_model"`; `""` is a
            scalar.
        name: what to call it in an error; by default what the caller wrote as `x`.
        sizes: what is known by name: `C=256`, or `**bound` as another check returned it.

    Returns:
        The size of every name, those of `sizes` included.

    Raises:
        ShapeError: the shape is another one, or `spec` or `sizes` cannot be read.
    """
    return (_active.get() or Shapes())._check(x, spec, name, sizes, CallSite.of(sys._getframe(1)))


def _merge(sizes: Mapping[str, int], given: Mapping[str, int], site: CallSite) -> dict[str, int]:
    """Return `sizes` with those that a caller gives, which may not contradict them."""
    merged = dict(sizes)
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ShapeError(f"{name} should be given as a whole number, and is {value!r}.")
        before = merged.setdefault(name, value)
        if before != value:
            first, second = _origin(before, site), _origin(value, site)
            raise ShapeError(f"{name} has two sizes: {before} {first}, and {value} {second}.")
    return merged


def _origin(size: int, site: CallSite) -> str:
    """Return `by q (line 3)`: where a size comes from, as told at another call."""
    if not isinstance(size, _Size):
        return "as given"
    tensor = size.tensor or size.site.first_argument() or "another tensor"
    return f"by {tensor} ({size.site.place(site)})"


def _explain(
    found: Match,
    axes: Sequence[Axis],
    spec: str,
    shape: tuple[int, ...],
    tensor: str,
    known: Mapping[str, int],
    site: CallSite,
) -> str:
    """Say what the tensor has, what was wanted, and which names disagree."""
    sizes = {**known, **found.sizes}
    wanted = [axis.text if (size := axis.size(sizes)) is None else size for axis in axes]
    head = f'{tensor} has the shape {_tuple(shape)}, and "{spec}" asks for {_tuple(wanted)}: '
    if found.wrong_count:
        named = [axis for axis in axes if axis.text != "..."]
        least = "at least " if len(named) < len(axes) else ""
        return f"{head}it has {_axes(len(shape))} for {least}{len(named)}."
    problems = [_problem(c, tensor, known, found, site) for c in found.conflicts]
    return f"{head}{'; '.join(problems)}.{_swap(axes, shape, known)}"


def _problem(
    conflict: Conflict, tensor: str, known: Mapping[str, int], found: Match, site: CallSite
) -> str:
    """Say why one axis does not fit."""
    axis, sizes = conflict.axis, {**known, **found.sizes}

    def where(name: str) -> str:
        return _origin(known[name], site) if name in known else f"on dim {found.dims[name]}"

    has = f"{conflict.size} in {tensor} (dim {conflict.dim})"
    size = axis.size(sizes)
    told = ", ".join(f"{n} is {sizes[n]} {where(n)}" for n in axis.names if n in sizes)
    if size is None:
        return f"{axis.text} is {has}, which is not a multiple of what is known: {told}"
    if len(axis.factors) > 1:
        return f"{axis.text} is {size}, as {told}, and it is {has}"
    if axis.names:
        return f"{told}, and {has}"
    return f"dim {conflict.dim} should be {axis.text}, and is {conflict.size}"


def _swap(axes: Sequence[Axis], shape: Sequence[int], known: Mapping[str, int]) -> str:
    """Return a sentence if the shape would fit with two of its axes exchanged."""
    if any(axis.text == "..." for axis in axes):
        return ""
    single = [i for i, axis in enumerate(axes) if len(axis.factors) == 1]
    for i, j in itertools.combinations(single, 2):
        swapped = list(shape)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        if match(axes, swapped, known).fits:
            return f" It fits with dims {i} and {j} exchanged: is a transpose missing or too many?"
    return ""


def _tuple(sizes: Sequence[object]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _axes(count: int) -> str:
    return f"{count} {'axis' if count == 1 else 'axes'}"
