"""An update hook with a state of its own, as a researcher would write it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tiny_transformer.hooks.base import Gradient, UpdateHook


class Momentum(UpdateHook):
    """Adds a running mean of past gradients; every third call counts double."""

    def __init__(self, decay: float = 0.5) -> None:
        self.decay, self.calls = decay, 0
        self.means: dict[str, Tensor] = {}

    def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
        self.calls += 1
        past = self.means.get(at.name, gradient)
        self.means[at.name] = self.decay * past + (1 - self.decay) * gradient
        return gradient * (1 + (self.calls % 3 == 0)) + self.means[at.name]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, **self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state.pop("calls")
        self.means = state
