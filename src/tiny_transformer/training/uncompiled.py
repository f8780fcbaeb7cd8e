"""PyTorch's optimizers without its compiler, whose import takes longer than a first update.

PyTorch imports `torch._dynamo` (1 to 2 s on a laptop) when an optimizer is made or steps, only
to tell it to leave that function alone. The functions themselves are called here: the
numbers are the same.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


class Uncompiled(torch.optim.Optimizer):
    """A base for optimizers that start sooner."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as PyTorch does."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)


class AdamW(Uncompiled, torch.optim.AdamW):
    """PyTorch's AdamW."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        inspect.unwrap(torch.optim.AdamW.step)(self)
