"""The model as a graph: forward passes that a tracer can follow at any batch and length.

The modules are the model's own. Three things in them cannot be traced as they are, and a copy
gets the plain form of each: rotary positions and squared ReLU, whose fast forms are Python
functions with a backward pass, which TorchScript cannot store; and the token window, which
decides by the length of the input.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_transformer.model.embeddings import Embeddings
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.mlp import MLP, explicit_relu_squared
from tiny_transformer.model.positional import RotaryTable
from tiny_transformer.model.transformer import Transformer

NONE = -1
"""Stands for the token before the first one."""


def traceable(model: Transformer) -> Transformer:
    """Return a copy of `model`, in evaluation mode, that a tracer can follow."""
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, RotaryTable):
            module.explicit = True
        if isinstance(module, MLP) and twin.config.activation == "relu2":
            module.activation = explicit_relu_squared
    if isinstance(twin.embeddings, Embeddings) and twin.embeddings.earlier is not None:
        twin.embeddings = _WindowedEmbeddings(twin.embeddings)
    return twin


class _WindowedEmbeddings(nn.Module):
    """`Embeddings` with a token window, the same for every length."""

    def __init__(self, embeddings: Embeddings) -> None:
        super().__init__()
        self.token, self.position = embeddings.token, embeddings.position
        self.earlier, self.scale = embeddings.earlier, embeddings.scale

    def forward(
        self, ids: Int[Tensor, "B T"], offset: int = 0, before: Int[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B T C"]:
        """Embed `ids` after the ids `before`, `NONE` where there is none."""
        assert self.earlier is not None
        (B, T), N = ids.shape, self.earlier.shape[0]
        if before is None:
            before = torch.full((B, N), NONE, dtype=torch.int64)
        seen = torch.cat([before, ids], dim=1)  # (B, N + T)
        x = self.token(ids)  # (B, T, C)
        total = torch.zeros_like(x)
        for distance in range(1, N + 1):
            there = seen.narrow(1, N - distance, T)  # (B, T)
            vectors = F.embedding(there.clamp(min=0), self.earlier[distance - 1])
            total = total + torch.where((there >= 0)[..., None], vectors, 0.0)
        x = x + total * self.scale
        return x if self.position is None else x + self.position(T, offset)


class WholeSequence(nn.Module):
    """The forward pass over all tokens: ids `(B, T)` to logits `(B, T, V)`."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = traceable(model)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits after each position."""
        return self.model(ids)


class OneStep(nn.Module):
    """One token of each sequence, after keys and values that the caller keeps."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = traceable(model)

    def forward(
        self,
        ids: Int[Tensor, "B 1"],
        past_keys: Float[Tensor, "L B H P D"],
        past_values: Float[Tensor, "L B H P D"],
        earlier_ids: Int[Tensor, "B N"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits `(B, V)`, and keys and values that hold one token more.

        Args:
            ids: the new token.
            past_keys: of the P tokens before it, in every layer; P may be 0.
            past_values: likewise.
            earlier_ids: with a token window, the N = token_window - 1 tokens before it, the
                nearest last and `NONE` where there is none.
        """
        cache = _GrowingCache(past_keys, past_values, earlier_ids)
        logits = self.model(ids, cast(KVCache, cache))
        return logits[:, -1], torch.stack(cache.keys), torch.stack(cache.values)


class _GrowingCache:
    """What the model asks of a `KVCache`, with keys and values that are never overwritten."""

    def __init__(self, keys: Tensor, values: Tensor, ids: Any) -> None:
        self.past, self.length, self.ids = (keys, values), keys.shape[3], ids
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def layer(self, index: int) -> _GrowingLayer:
        return _GrowingLayer(self, index)

    def advance(self, ids: Tensor) -> None:
        """The caller counts."""


class _GrowingLayer:
    def __init__(self, cache: _GrowingCache, index: int) -> None:
        self.cache, self.index, self.length = cache, index, cache.length

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.cache.past
        self.cache.keys.append(torch.cat([keys[self.index], k], dim=2))  # (B, H, P + 1, D)
        self.cache.values.append(torch.cat([values[self.index], v], dim=2))
        return self.cache.keys[-1], self.cache.values[-1]
