"""A hook of one's own: tiny train --hook examples/my_hooks.py:MyHook."""

from torch import Tensor

from tiny_transformer import Gradient, UpdateHook


class MyHook(UpdateHook):
    """Give the optimizer a running mean of each gradient."""

    def __init__(self, strength: float = 0.5) -> None:
        self.strength, self.means = strength, {}

    def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
        """Move the mean towards the gradient, and pass it on."""
        mean = self.means.get(at.name, gradient)
        self.means[at.name] = mean.lerp(gradient, 1 - self.strength)
        return self.means[at.name]

    def state_dict(self) -> dict[str, Tensor]:
        """Keep the means in the checkpoint."""
        return self.means

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the means of the checkpoint."""
        self.means = state
