"""Sequences of unequal length side by side in one cache."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.transformer import Transformer


class Unequal:
    """How long each sequence in a cache is, when all end at the same place in it.

    Their next tokens then lie side by side, and a mask hides what is before a sequence's
    beginning. Each sequence counts its positions from its own beginning.

    Args:
        model: of reference parts.
        cache: of all sequences; those it holds have one length.
        batch_size: number of sequences.
    """

    def __init__(self, model: Transformer, cache: KVCache, batch_size: int) -> None:
        self._model, self._cache = model, cache
        self._lengths = [cache.length] * batch_size
        device = cache.keys.device
        n_recent = model.config.token_window - 1
        self._recent = torch.zeros(batch_size, n_recent, dtype=torch.int64, device=device)
        if cache.ids.shape[1]:
            self._recent[:, -cache.ids.shape[1] :] = cache.ids
        self._mask = torch.zeros(batch_size, 1, 1, cache.capacity).to(cache.keys)

    def read(self, sequences: Mapping[int, Int[Tensor, " T"]]) -> Float[Tensor, "N V"]:
        """Put sequences into their rows; return the logits after each, in the given order."""
        cache, rows = self._cache, list(sequences)
        for row in rows:
            self._lengths[row] = len(sequences[row])
        self._end_at(max(self._lengths))
        logits: dict[int, Tensor] = {}
        for length in {self._lengths[row] for row in rows}:
            alike = [row for row in rows if self._lengths[row] == length]
            ids = torch.stack([sequences[row] for row in alike])  # (N, T)
            own = KVCache(
                self._model.config, len(alike), dtype=cache.keys.dtype, device=cache.keys.device
            )
            logits |= zip(alike, self._model(ids, own, last_only=True)[:, -1], strict=True)
            at = slice(cache.length - length, cache.length)
            cache.keys[:, alike, :, at] = own.keys[:, :, :, :length]
            cache.values[:, alike, :, at] = own.values[:, :, :, :length]
            if own.ids.shape[1]:
                self._recent[alike, -own.ids.shape[1] :] = own.ids
        self._hide()
        return torch.stack([logits[row] for row in rows])

    def embed(
        self, column: Int[Tensor, "B 1"]
    ) -> tuple[Float[Tensor, "B C"], Int[Tensor, "B 1"], Float[Tensor, "B 1 1 T"]]:
        """Count one more token of each sequence.

        Returns:
            Their first vectors, their positions, and what is added to their scores.
        """
        x = self._mask.new_empty(len(column), self._model.config.d_model)
        for length in set(self._lengths):
            rows = [row for row, own in enumerate(self._lengths) if own == length]
            n_recent = min(length, self._recent.shape[1])
            before = (self._recent[rows][:, -n_recent:],) if n_recent else ()
            x[rows] = self._model.embeddings(column[rows], length, *before)[:, 0]
        positions = torch.tensor(self._lengths, device=column.device)[:, None]
        if self._recent.shape[1]:
            self._recent = torch.cat([self._recent, column], dim=1)[:, 1:]
        self._lengths = [length + 1 for length in self._lengths]
        return x, positions, self._mask[..., : self._cache.length + 1]

    def _end_at(self, length: int) -> None:
        """Move everything to end at `length`, so that there is room after it."""
        cache, shift = self._cache, self._cache.length - length
        if shift > 0:
            for table in (cache.keys, cache.values):
                table[:, :, :, :length] = table[:, :, :, shift : shift + length].clone()
        elif shift < 0:
            for table in (cache.keys, cache.values):
                table[:, :, :, -shift:length] = table[:, :, :, : length + shift].clone()
        cache.length = length

    def _hide(self) -> None:
        self._mask.zero_()
        for row, length in enumerate(self._lengths):
            self._mask[row, :, :, : self._cache.length - length] = float("-inf")
