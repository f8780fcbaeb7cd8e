"""Update hooks that ship: what to do to gradients, or to the optimizer's update.

Notable: AdamW divides by the gradient's own size, so multiplying a gradient changes
next to nothing there; `freeze` and `layer_learning_rate` act on the update instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tiny_transformer.config.checks import check, check_finite
from tiny_transformer.hooks.base import Gradient, UpdateHook
from tiny_transformer.hooks.patterns import matches, matching
from tiny_transformer.runtime.random_state import generator


@dataclass
class Identity(UpdateHook):
    """Return each gradient as it is; what a run without update hooks does."""


@dataclass
class Scale(UpdateHook):
    """Multiply gradients by `factor`. AdamW and Muon hardly notice; SGD would."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_finite("hooks.scale", "factor", self.factor)

    def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
        """Return `factor * g`."""
        return gradient * self.factor


@dataclass
class Noise(UpdateHook):
    """Add Gaussian noise with standard deviation `sqrt(eta / step^gamma)`.

    The draws depend on (seed, step, parameter) alone. Source: Neelakantan et al. 2015,
    "Adding Gradient Noise Improves Learning for Very Deep Networks".
    """

    eta: float = 0.01
    gamma: float = 0.55

    def __post_init__(self) -> None:
        check(self.eta >= 0, f"hooks.noise.eta is {self.eta}; it must be at least 0.")
        check_finite("hooks.noise", "eta", self.eta)
        check_finite("hooks.noise", "gamma", self.gamma)

    def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
        """Return `g + sigma * n` with `n` standard normal."""
        sigma = (self.eta / at.step**self.gamma) ** 0.5
        draws = generator(at.seed, "noise", self.label, at.step, at.name)
        noise = torch.randn(gradient.shape, generator=draws)  # on the CPU: equal on all devices
        return gradient + sigma * noise.to(gradient.device, gradient.dtype)


@dataclass
class Sign(UpdateHook):
    """Keep the sign of each element, at the gradient's mean size.

    Source: Bernstein et al. 2018, "signSGD: Compressed Optimisation for Non-Convex
    Problems"; with the factor of Karimireddy et al. 2019, "Error Feedback Fixes SignSGD and
    other Gradient Compression Schemes", which leaves the gradient's scale as it was.
    """

    def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
        """Return `mean(|g|) * sign(g)`."""
        return gradient.sign() * gradient.abs().mean()


@dataclass
class Project(UpdateHook):
    """Take away the part of a gradient that points along its own weight.

    What is left turns the weight without lengthening it. Matrices are projected row by
    row, each row being the weight of one output; vectors are left as they are. Heo et al.
    2021, "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
    Weights", project the optimizer's update in this way; here it is its gradient.
    """

    def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
        """Return `g - (g . w) / (w . w) * w` for each row."""
        if gradient.ndim < 2:
            return gradient
        weight = at.weight.to(gradient.dtype)
        squared = weight.square().sum(dim=-1, keepdim=True)  # (..., 1)
        along = (gradient * weight).sum(dim=-1, keepdim=True)
        share = torch.where(squared > 0, along / squared, 0.0)  # a row of zeros has no direction
        return gradient - share * weight


@dataclass
class Freeze(UpdateHook):
    """Leave the parameters that match `parameters` as they are, bit for bit.

    Their gradients are computed, and count in the norm that clipping looks at.
    """

    parameters: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check(
            bool(self.parameters),
            "The hook freeze needs patterns of what to freeze, for instance "
            "{name: freeze, parameters: [embeddings]}.",
        )

    def learning_rate_scale(self, at: Gradient) -> float:
        """Return 0: frozen."""
        return 0.0


@dataclass
class LayerLearningRate(UpdateHook):
    """Give each layer a learning rate of its own.

    With `decay`, block l of L learns at `decay^(L - 1 - l)` times the rate, the embeddings
    at `decay^L` times it, final norm and output at the full rate (Howard and Ruder 2018,
    "Universal Language Model Fine-tuning for Text Classification").
    `scales` maps patterns of parameter names to factors, which multiply; 0 freezes.
    """

    decay: float = 1.0
    scales: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in [("decay", self.decay), *self.scales.items()]:
            check_finite("hooks.layer_learning_rate", name, value)
            check(
                value >= 0,
                f"hooks.layer_learning_rate.{name} is {value}; it must be at least 0.",
            )

    def patterns(self) -> tuple[str, ...]:
        """Return those of `scales` too."""
        return (*self.parameters, *self.scales)

    def learning_rate_scale(self, at: Gradient) -> float:
        """Return the product of the layer's factor and of those whose pattern matches."""
        if at.layer is not None:
            scale = self.decay ** (at.n_layers - 1 - at.layer)
        else:
            scale = self.decay**at.n_layers if matches("embeddings", at.name) else 1.0
        for pattern in matching(self.scales, at.name):
            scale *= self.scales[pattern]
        return scale
