"""Inputs for tests and probes: random numbers that are the same every time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal random numbers of a shape, equal for equal seeds; a new tensor each time."""
    return _drawn(shape, seed).to(dtype, copy=True)


@functools.lru_cache(maxsize=256)
def _drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def changed(call: Callable[..., Any], *inputs: Tensor) -> list[bool]:
    """Return which inputs `call` writes to."""
    given = [x.clone() for x in inputs]
    call(*given)
    return [not torch.equal(a, b) for a, b in zip(inputs, given, strict=True)]
