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


def newest_half(context_length: int) -> int:
    """Return how many of its newest tokens a full context keeps, to make room for more."""
    return max(1, context_length // 2)


class KVCache:
    """Room for the keys and values of `context_length` tokens in every layer.

    Args:
        config: gives the number of layers, key-value heads, the context and head width.
        batch_size: sequences generated side by side.
        dtype: of keys and values.
        device: where they lie.

    Attributes:
        length: tokens held; positions `0 .. length - 1` are filled.
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
        self._n_ids = config.token_window - 1
        n_tokens = self.capacity if self._n_ids else 0
        self._tokens = torch.zeros(batch_size, n_tokens, dtype=torch.int64, device=device)

    @property
    def ids(self) -> Int[Tensor, "B N"]:
        """The last tokens, as many as the embedding of the next one looks back."""
        return self._tokens[:, max(0, self.length - self._n_ids) : self.length]

    def layer(self, index: int) -> LayerCache:
        """Return the view of one layer that its attention reads and extends."""
        return LayerCache(self.keys[index], self.values[index], self.length)

    def advance(self, ids: Int[Tensor, "B T"]) -> None:
        """Count the tokens `ids` as held, once every layer has appended them."""
        end = self.length + ids.shape[1]
        if self._n_ids:
            self._tokens[:, self.length : end] = ids
        self.length = end

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens, at most as many as are held."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens; it cannot keep {length}")
        self.length = length

    def clear(self) -> None:
        """Forget everything; the room is kept."""
        self.truncate(0)

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        """Let row i hold what row `rows[i]` holds; a row may be taken more than once."""
        for layer in (*self.keys, *self.values):  # one at a time: a small copy
            layer[:, :, : self.length] = layer[rows, :, : self.length]
        self._tokens[:] = self._tokens[rows]


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
