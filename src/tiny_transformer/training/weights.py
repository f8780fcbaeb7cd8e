"""A model's weights by name: copied in, and hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tiny_transformer.runtime.distributed import full, spread_like
from tiny_transformer.runtime.errors import CheckpointError


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, shared ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `weights` into `model`; every name and shape must agree.

    Raises:
        CheckpointError: names the first parameter that is missing, surplus or misshapen.
    """
    own = named_weights(model)
    refuse_other_shapes(own, {n: weight.shape for n, weight in weights.items()}, where=where)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(spread_like(weights[name], parameter))


def refuse_other_shapes(
    own: Mapping[str, Tensor], weights: Mapping[str, torch.Size], *, where: str
) -> None:
    """Raise `CheckpointError` unless both have the same names and shapes."""
    missing, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or surplus:
        problem = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which the model lacks"
        raise CheckpointError(f"{where} does not fit this model: it {problem}.")
    for name, parameter in own.items():
        if weights[name] != parameter.shape:
            raise CheckpointError(
                f"{where} does not fit this model: {name} has shape "
                f"{tuple(weights[name])} there and {tuple(parameter.shape)} here."
            )


def tensor_hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for each tensor the SHA-256 of its shape, dtype and bits, as hex.

    Tensors that are sharded are gathered one after the other, which every rank must do.
    """
    hashes = {}
    for name, tensor in tensors.items():
        digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = full(tensor.detach()).cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
        hashes[name] = digest.hexdigest()
    return hashes


def joint_hash(hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 over names and hashes, in the order of the names."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over the names, shapes and bits of all weights, as hex."""
    return joint_hash(tensor_hashes(named_weights(model)))
