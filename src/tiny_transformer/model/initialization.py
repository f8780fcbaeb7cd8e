"""Every first weight, in one place, as a function of (seed, parameter name).

| parameter | first value |
|---|---|
| norm weights | 1 |
| biases | 0 |
| token and position embeddings | normal, 0.02; `1 / sqrt(d_model)` for scaled token embeddings |
| output projection, where it is not tied | normal, 0.02 |
| into the residual stream (`o_proj`, `down_proj`) | normal, `0.02 / sqrt(2 n_layers)`, or zero |
| every other matrix | normal, 0.02 |

Each parameter draws from a generator of its own, seeded from the seed and its name: a part
that registers its parameters in another order starts from the same numbers. Source of
the numbers: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
section 2.3, and GPT-2's code.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.runtime.random_state import generator

STD = 0.02
RESIDUAL_PROJECTIONS = ("o_proj.weight", "down_proj.weight")


def residual_std(n_layers: int, std: float = STD) -> float:
    """Return the first standard deviation of the matrices that write into the residual stream.

    Each of the `2 n_layers` branches adds to the stream, and variances of independent numbers
    add: divided by the root of their number, all of them together add what one would.

    Args:
        n_layers: blocks, each with two branches.
        std: of every other matrix.

    Source: Radford et al. 2019, section 2.3.
    """
    return std / math.sqrt(2 * n_layers)


def initial_std(name: str, shape: torch.Size, config: ModelConfig) -> float | None:
    """Return the standard deviation of a parameter's first values; None means constant."""
    if len(shape) < 2:
        return None
    if name.endswith(RESIDUAL_PROJECTIONS):
        if config.residual_init == "zero":
            return 0.0
        return residual_std(config.n_layers)
    if name.endswith(("token.weight", "embeddings.earlier")) and config.scale_embeddings:
        return 1 / math.sqrt(config.d_model)
    return STD


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Set every parameter of `model` to its first value; no global generator is touched.

    Args:
        model: a transformer whose parameter names are the reference's.
        config: its architecture.
        seed: equal seeds give bit-identical weights.
    """
    for name, parameter in model.named_parameters():
        std = initial_std(name, parameter.shape, config)
        if std is None:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        draws = torch.randn(parameter.shape, generator=generator(seed, "init", name))
        parameter.copy_(draws * std)
