"""Where each head looks: the attention weights of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError


def attention_weights(model: Transformer, ids: Sequence[int]) -> Float[Tensor, "L H T T"]:
    """Return the weights of every layer and head over one sequence.

    Args:
        model: of any parts whose attention has `forward_with_weights`.
        ids: 1 to `context_length` of them.

    Returns:
        `weights[layer, head, query, key]`, float32 on the CPU; each row sums to one.

    Raises:
        ConfigError: the attention part cannot tell its weights.
    """
    attentions = [getattr(block, "attention", None) for block in model.blocks]
    if not all(hasattr(attention, "forward_with_weights") for attention in attentions):
        raise ConfigError(
            "This model's attention cannot tell its weights: its class has no "
            "`forward_with_weights`."
        )
    found: list[Tensor] = []

    def look(attention: Any, args: tuple[Tensor, ...]) -> None:
        found.append(attention.forward_with_weights(args[0])[1][0])

    was_training = model.training
    handles = [attention.register_forward_pre_hook(look) for attention in attentions]  # pyright: ignore[reportOptionalMemberAccess]
    try:
        with torch.no_grad():
            model.eval()(torch.tensor([list(ids)], device=model.lm_head.weight.device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return torch.stack(found).float().cpu()
