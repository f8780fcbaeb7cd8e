"""`"B T (H D)"`: the language of `check_shape`, and whether a shape fits it."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tiny_transformer.runtime.errors import TinyError

_TOKEN = re.compile(r"\([^()]*\)|[^\s()]+|[()]")
_SYNTAX = "An axis is a name (T), a number (3), _ for any size, (H D) for a product, or ..."


class ShapeError(TinyError):
    """A tensor whose axes are not the ones that were asked for, or a spec that is not one."""


@dataclass(frozen=True)
class Axis:
    """One axis of a spec: the product of its factors.

    Attributes:
        text: as it was written.
        factors: names and numbers; none for `_` and `...`, which fit any size.
    """

    text: str
    factors: tuple[str | int, ...] = ()

    @property
    def names(self) -> list[str]:
        """Its factors that are names."""
        return [factor for factor in self.factors if isinstance(factor, str)]

    def size(self, sizes: Mapping[str, int]) -> int | None:
        """Return the product of its factors; None if one of them has no size."""
        if not self.factors or not all(name in sizes for name in self.names):
            return None
        return math.prod(sizes[f] if isinstance(f, str) else f for f in self.factors)


@dataclass(frozen=True)
class Conflict:
    """An axis that has another size than its factors say: the `dim` and `size` of the tensor."""

    axis: Axis
    dim: int
    size: int


@dataclass
class Match:
    """What became of a shape beside a spec.

    Attributes:
        sizes: of the names that this tensor binds.
        dims: on which of its axes it binds them.
        conflicts: the axes that do not fit.
        wrong_count: the tensor has too few or too many axes; nothing else was looked at.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    wrong_count: bool = False

    @property
    def fits(self) -> bool:
        """Whether the shape is as the spec says."""
        return not self.conflicts and not self.wrong_count


@functools.lru_cache(maxsize=256)
def parse_spec(spec: str) -> tuple[Axis, ...]:
    """Read a spec.

    Raises:
        ShapeError: it holds something that is no axis, or `...` twice.
    """
    axes = tuple(_parse_axis(token, spec) for token in _TOKEN.findall(spec))
    if sum(axis.text == "..." for axis in axes) > 1:
        raise ShapeError(f'"{spec}" has ... twice; which axes are whose would be unclear.')
    return axes


def _parse_axis(token: str, spec: str) -> Axis:
    if token in ("...", "_"):
        return Axis(token)
    words = token[1:-1].split() if token.startswith("(") and token.endswith(")") else [token]
    factors: list[str | int] = []
    for word in words:
        if word.isdecimal():
            factors.append(int(word))
        elif word.isidentifier() and word != "_":
            factors.append(word)
        else:
            separated = " Separate axes by spaces." if "," in word else ""
            raise ShapeError(f'{word!r} in the spec "{spec}" is no axis.{separated} {_SYNTAX}')
    if not factors:
        raise ShapeError(f'{token!r} in the spec "{spec}" names nothing. {_SYNTAX}')
    return Axis(token, tuple(factors))


def match(axes: Sequence[Axis], shape: Sequence[int], known: Mapping[str, int]) -> Match:
    """Hold a shape against a spec.

    Args:
        axes: of the spec.
        shape: of the tensor.
        known: sizes of names from before.

    Raises:
        ShapeError: two factors of one product have no size.
    """
    found = Match()
    pairs = _pair(axes, len(shape))
    if pairs is None:
        found.wrong_count = True
        return found
    # Single names first: a product may need one that stands behind it.
    for axis, dim in sorted(pairs, key=lambda pair: len(pair[0].factors)):
        sizes = {**known, **found.sizes}
        unknown = [name for name in axis.names if name not in sizes]
        if len(unknown) > 1:
            raise ShapeError(
                f"{axis.text} is a product of unknown sizes: give that of {unknown[0]} or of "
                f"{unknown[1]}, for instance {unknown[0]}=4."
            )
        rest = Axis(axis.text, tuple(f for f in axis.factors if f not in unknown))
        known_part = rest.size(sizes) if rest.factors else 1
        assert known_part is not None
        if not unknown:
            fits = not axis.factors or shape[dim] == known_part
        else:
            fits = known_part > 0 and shape[dim] % known_part == 0
        if not fits:
            found.conflicts.append(Conflict(axis, dim, shape[dim]))
        elif unknown:
            found.sizes[unknown[0]] = shape[dim] // known_part
            found.dims[unknown[0]] = dim
    found.conflicts.sort(key=lambda conflict: conflict.dim)
    return found


def _pair(axes: Sequence[Axis], n_dims: int) -> list[tuple[Axis, int]] | None:
    """Return which axis of the spec stands for which of the tensor; None if they do not add up."""
    dots = next((i for i, axis in enumerate(axes) if axis.text == "..."), None)
    if dots is None:
        return list(zip(axes, range(n_dims), strict=True)) if len(axes) == n_dims else None
    behind = axes[dots + 1 :]
    if dots + len(behind) > n_dims:
        return None
    return [
        *zip(axes[:dots], range(dots), strict=True),
        *zip(behind, range(n_dims - len(behind), n_dims), strict=True),
    ]
