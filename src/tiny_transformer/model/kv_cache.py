"""Keys and values of the tokens seen so far, so that each is computed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.runtime.errors import PromptError


def check_fits(past: int, new: int, context_length: int) -> None:
    """Raise `PromptError` unless `new` tokens, at least one, fit after `past` others."""
    if new == 0 or past + new > context_length:
        raise PromptError(
            f"The model sees 1 to {context_length} tokens at once (model.context_length); got "
            f"{past + new}. Give it the last {context_length}, or build it with a longer context."
        )


class KVCache:
    """Room for the keys and values of `context_length` tokens in every layer.

    Args:
        config: gives the number of layers, key-value heads, the context and head width.
        batch_size: sequences generated side by side.
        dtype: of keys and values.
        device: where they lie.

    Attributes:
        length: tokens held; positions `0 .. length - 1` are filled.
        ids: the last tokens, as many as the embedding of the next one looks back.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        size = (
            config.n_layers,
            batch_size,
            config.kv_heads,
            config.context_length,
            config.head_dim,
        )
        self.keys = torch.zeros(size, dtype=dtype, device=device)  # (L, B, H_kv, T_max, D)
        self.values = torch.zeros(size, dtype=dtype, device=device)
        self.capacity = config.context_length
        self.length = 0
        self.ids = torch.zeros(batch_size, 0, dtype=torch.int64, device=device)  # (B, N)
        self._n_ids = config.token_window - 1

    def layer(self, index: int) -> LayerCache:
        """Return the view of one layer that its attention reads and extends."""
        return LayerCache(self.keys[index], self.values[index], self.length)

    def advance(self, ids: Int[Tensor, "B T"]) -> None:
        """Count the tokens `ids` as held, once every layer has appended them."""
        self.length += ids.shape[1]
        if self._n_ids:
            self.ids = torch.cat([self.ids, ids], dim=1)[:, -self._n_ids :]

    def clear(self) -> None:
        """Forget everything; the room is kept."""
        self.length = 0
        self.ids = self.ids[:, :0]


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values, each `(B, H_kv, T_max, D)`, of which `length` are filled."""

    keys: Tensor
    values: Tensor
    length: int

    def extend(
        self, k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T D"]
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens' `k` and `v`; return all keys and values up to them."""
        end = self.length + k.shape[-2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]
