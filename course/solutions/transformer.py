"""The whole model, answered: module 05.

`Transformer` is the package's own. The counts and bytes are those of `tiny_transformer.viz`,
under the names of this module; what stands here is what the package has no name for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.generator import evaluating
from tiny_transformer.viz.memory import estimate_memory
from tiny_transformer.viz.parameters import count_parameters

__all__ = [
    "Transformer",
    "count_by_formula",
    "count_by_part",
    "is_tied",
    "load_weights",
    "tie_weights",
    "training_memory",
    "write_greedily",
]


def is_tied(model: nn.Module) -> bool:
    """Return whether the head's weight is the token embedding's, the same parameter."""
    return model.get_parameter("lm_head.weight") is model.get_parameter("embeddings.token.weight")


def tie_weights(model: nn.Module) -> None:
    """Make the token embedding's parameter the head's too."""
    model.get_submodule("lm_head").weight = model.get_parameter("embeddings.token.weight")


def count_by_part(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each kind of part, shared ones once."""
    counts = dict.fromkeys(("embeddings", "attention", "mlp", "norms", "head"), 0)
    for name, parameter in model.named_parameters():  # gives a shared parameter once
        counts[_part_of(name)] += parameter.numel()
    return counts


def _part_of(name: str) -> str:
    """Return the kind of part that a parameter's name belongs to."""
    pieces = name.split(".")
    if any("norm" in piece for piece in pieces):
        return "norms"
    if pieces[0] in ("embeddings", "lm_head"):
        return {"embeddings": "embeddings", "lm_head": "head"}[pieces[0]]
    return pieces[2]  # blocks.0.attention, blocks.0.mlp


def count_by_formula(config: ModelConfig) -> dict[str, int]:
    """Return the number of parameters of each kind of part, from the config alone."""
    count = count_parameters(config)
    return {
        "embeddings": count.token_embedding + count.positions,
        "attention": count.attention,
        "mlp": count.mlp,
        "norms": count.norms,
        "head": count.output_head,
    }


def training_memory(config: ModelConfig, batch_size: int) -> dict[str, int]:
    """Return the bytes of weights, gradients, AdamW's averages, and activations."""
    estimate = dataclasses.asdict(estimate_memory(config, batch_size=batch_size))
    del estimate["kv_cache"]  # for generating only
    return estimate


def write_greedily(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    """Return `ids` and the likeliest continuation, token by token."""
    with evaluating(model):
        for _ in range(n_new):
            logits = model(ids[:, -context_length:])  # (B, t, V)
            ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
    return ids.clone()


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Copy renamed weights into a model; return what is missing, and what was not expected."""
    own = model.state_dict()
    ours = {name: _renamed(name, rename) for name in weights}
    known = {name: new for name, new in ours.items() if new in own}
    for name, new in known.items():
        if weights[name].shape != own[new].shape:
            raise ValueError(
                f"{name} has the shape {tuple(weights[name].shape)}, and {new} of the model "
                f"{tuple(own[new].shape)}."
            )
    with torch.no_grad():
        for name, new in known.items():
            own[new].copy_(weights[name])
    filled = {own[new].data_ptr() for new in known.values()}
    missing = [name for name, p in model.named_parameters() if p.data_ptr() not in filled]
    return sorted(missing), sorted(set(weights) - set(known))


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        name = name.replace(old, new)
    return name
