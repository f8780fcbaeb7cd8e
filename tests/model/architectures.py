"""The architectures that the tests of the model run over, all tiny."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer

CONTEXT, VOCABULARY = 16, 29

POSITIONS = ("learned", "sinusoidal", "rotary", "none")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "relu2", "swiglu")
NORMS = ("layer_norm", "rms_norm")

# Each choice alone, then some that modern models combine.
CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"position-{name}": {"position": name} for name in POSITIONS[1:]},
    **{f"activation-{name}": {"activation": name} for name in ACTIVATIONS[1:]},
    "rms-norm": {"norm": "rms_norm"},
    "no-bias": {"bias": False},
    "untied": {"tie_weights": False},
    "scaled-embeddings": {"scale_embeddings": True},
    "grouped": {"n_kv_heads": 2},
    "multi-query": {"n_kv_heads": 1},
    "qk-norm": {"qk_norm": True},
    "token-window": {"token_window": 4, "scale_embeddings": True},
    "explicit": {"backend": "explicit"},
    "one-head": {"n_heads": 1},
    "llama": {
        "norm": "rms_norm", "position": "rotary", "activation": "swiglu", "bias": False,
        "n_kv_heads": 2, "tie_weights": False,
    },
    "qwen3": {
        "norm": "rms_norm", "position": "rotary", "activation": "swiglu", "bias": False,
        "n_kv_heads": 2, "qk_norm": True, "backend": "explicit",
    },
}  # fmt: skip


def tiny_config(**settings: Any) -> ModelConfig:
    """Return a small architecture without dropout, with `settings` changed."""
    sizes = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 48, "dropout": 0.0}
    sizes |= {"context_length": CONTEXT, "vocab_size": VOCABULARY}
    return ModelConfig(**(sizes | settings))


every_architecture = pytest.mark.parametrize(
    "config", [tiny_config(**choice) for choice in CHOICES.values()], ids=list(CHOICES)
)

# Every combination of what an attention layer can be.
ATTENTIONS = [
    {"position": position, "n_kv_heads": kv_heads, "qk_norm": qk_norm}
    for position, kv_heads, qk_norm in itertools.product(POSITIONS, (4, 2, 1), (False, True))
]
every_attention = pytest.mark.parametrize(
    "attention",
    ATTENTIONS,
    ids=["{position}-{n_kv_heads}kv-norm{qk_norm:d}".format(**a) for a in ATTENTIONS],
)


def tiny_model(
    config: ModelConfig, *, parts: Parts | None = None, dtype: torch.dtype = torch.float32
) -> Transformer:
    """Return a model with no weight at zero or one, so that every weight matters."""
    model = Transformer(config, parts, seed=1).to(dtype)
    scramble(model)
    return model


@torch.no_grad()
def scramble(model: torch.nn.Module, scale: float = 0.2) -> None:
    """Add noise to every parameter: norms, biases and residual projections too."""
    noise = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        draws = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
        parameter.add_(draws.to(parameter) * scale)


def token_ids(batch: int = 2, length: int = CONTEXT, seed: int = 3) -> Tensor:
    """Return reproducible ids of shape (batch, length)."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (batch, length), generator=draws)


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference; infinite where one is not a number."""
    assert first.shape == second.shape, (first.shape, second.shape)
    difference = (first - second).abs().max().item()
    return difference if difference == difference else float("inf")


def decisive_model(parts: Parts | None = None, **settings: Any) -> Transformer:
    """Return a float64 model whose choices differ from token to token."""
    model = Transformer(tiny_config(**settings), parts, seed=3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model
