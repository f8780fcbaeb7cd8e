"""Axes by name, the place of the largest difference, and how two tensors are related."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.trace import CLOSE, difference


@dataclass(frozen=True)
class Axes:
    """Names of axes by their sizes, which a probe's model makes unequal.

    Attributes:
        names: `{size: name}`.
        time: sizes that are times: two of them at the end are queries and keys.
        factors: named numbers that a tensor may be too large by.
    """

    names: dict[int, str]
    time: tuple[int, ...]
    factors: dict[str, float]
    head_dim: int

    @classmethod
    def of(cls, config: ModelConfig, batch_size: int, length: int) -> Axes:
        """Name the axes of a model's tensors."""
        D, C = config.head_dim, config.d_model
        names = {
            batch_size: "B",
            length: "T",
            config.n_heads: "H",
            C: "C",
            config.feed_forward_width: "F",
            config.vocab_size: "V",
            config.context_length: "context",
        }
        names = {**{config.kv_heads: "H_kv", D: "D"}, **names}
        sizes = {"D": D, "C": C, "H": config.n_heads, "T": length, "B": batch_size}
        factors = {name: float(size) for name, size in sizes.items()}
        return cls(names, (length,), factors, D)

    def of_stage(self, stage: str) -> Axes:
        """Return the names where past tokens come from a cache: 4 of them, then T new ones."""
        if stage != "cache":
            return self
        past = 4
        length = self.time[0]
        names = {past: "T_past", length + past: "T_past + T", **self.names}
        return Axes(names, (length, past, length + past), self.factors, self.head_dim)

    def names_of(self, shape: Sequence[int]) -> list[str]:
        """Return the name of each axis; the size where it has none."""
        found = [self.names.get(size, str(size)) for size in shape]
        if len(shape) >= 2 and shape[-1] in self.time and shape[-2] in self.time:
            found[-2:] = ["queries", "keys"]
        if len(shape) == 4 and shape[-1] == self.head_dim:
            found[-1] = "D"
        return found

    def shape(self, shape: Sequence[int]) -> str:
        """Return `(B, T, C) = (2, 5, 24)`; `a single number` for no axes."""
        if len(shape) == 0:
            return "a single number"
        comma = "," if len(shape) == 1 else ""
        names, sizes = ", ".join(self.names_of(shape)), ", ".join(map(str, shape))
        return f"({names}{comma}) = ({sizes}{comma})"


def place_of_largest(got: Tensor, wanted: Tensor, axes: Axes) -> str:
    """Say where two tensors of one shape differ most, and by how much."""
    gap = difference(got, wanted)
    index = tuple(int(i) for i in torch.unravel_index(gap.argmax(), gap.shape))
    named = zip(axes.names_of(got.shape), index, got.shape, strict=True)
    at = ", ".join(f"{name} {place}" for name, place, size in named if size > 1)
    worst = float(gap[index])
    told = f"{worst:.3g}" if math.isfinite(worst) else "without bound"
    n_wrong = int((gap > CLOSE * max(1.0, float(gap.nan_to_num(posinf=0.0).max()))).sum())
    return (
        f"largest difference: {told}{f' at {at}' if at else ''}, where yours is "
        f"{_number(got[index])} and the reference's {_number(wanted[index])} "
        f"({n_wrong} of {gap.numel()} values differ)"
    )


def relation(got: Tensor, wanted: Tensor, axes: Axes) -> list[str]:
    """Return a line if one tensor is a multiple of the other, or has its values elsewhere."""
    if not (got.is_floating_point() and wanted.is_floating_point()):
        return []
    a, b = got.detach().double().flatten(), wanted.detach().double().flatten()
    finite = a.isfinite() & b.isfinite() & (b.abs() > 1e-6)
    if not finite.any():
        return []
    ratio = a[finite] / b[finite]
    middle = float(ratio.median())
    if ratio.numel() > 1 and float((ratio - middle).abs().max()) < 1e-3 * abs(middle):
        return [f"yours is {middle:.4g} times the reference's everywhere{_factor(middle, axes)}"]
    if torch.allclose(a.sort().values, b.sort().values, rtol=1e-4, atol=1e-5, equal_nan=True):
        return [
            "yours has the same values in other places: are two axes swapped, or is there a view "
            "where a transpose belongs?"
        ]
    return []


def _factor(value: float, axes: Axes) -> str:
    """Name a factor: a size, its root, or one over either."""
    for name, size in axes.factors.items():
        for text, factor in (
            (f"the square root of {name}", math.sqrt(size)),
            (name, float(size)),
            (f"1 over the square root of {name}", 1 / math.sqrt(size)),
            (f"1 over {name}", 1 / size),
        ):
            if size > 1 and math.isclose(value, factor, rel_tol=1e-3):
                return f": {text}, which is {factor:.4g} here"
    return ": it has the wrong sign" if math.isclose(value, -1, rel_tol=1e-3) else ""


def _number(value: Tensor) -> str:
    return str(value.item()) if not value.is_floating_point() else f"{value.item():.4g}"
