"""From token ids to the first vectors of the residual stream."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.dropout import Dropout

if TYPE_CHECKING:
    from tiny_transformer.model.parts import Parts


class TokenEmbedding(nn.Module):
    """A learned vector for each token, times `sqrt(d_model)` if the config says so.

    Args:
        config: the architecture; `vocab_size`, `d_model` and `scale_embeddings` matter.

    Parameters: `weight` of shape `(vocab_size, d_model)`. Scaling: Vaswani et al. 2017,
    section 3.4.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Look up the vector of each id."""
        vectors = F.embedding(ids, self.weight)
        return vectors if self.scale == 1.0 else vectors * self.scale


class Embeddings(nn.Module):
    """Token embedding plus position embedding, then dropout.

    With a `token_window` of n, the n - 1 tokens before each one add a vector too, from a
    table for each distance: what a linear layer over their concatenated embeddings could
    give, as in Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2.

    Args:
        config: the architecture.
        parts: gives the classes of the two embeddings.

    Parameters: those of `token`, those of `position` unless positions are rotary or none,
    and `earlier` of shape `(token_window - 1, vocab_size, d_model)` if that is not empty.
    """

    capabilities = frozenset({"token_window"})

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.token = parts.token_embedding(config)
        size = (config.token_window - 1, config.vocab_size, config.d_model)
        self.earlier = nn.Parameter(torch.zeros(size)) if config.token_window > 1 else None
        self.scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        added = config.position in ("learned", "sinusoidal")
        self.position = parts.positional_embedding(config) if added else None
        self.dropout = Dropout(config.dropout_probability)

    def forward(
        self, ids: Int[Tensor, "B T"], offset: int = 0, before: Int[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B T C"]:
        """Embed ids whose first position is `offset`, after the ids `before`, if any."""
        x = self.token(ids)
        if self.earlier is not None:
            x = x + self._earlier_vectors(ids if before is None else torch.cat([before, ids], 1), x)
        if self.position is not None:
            x = x + self.position(ids.shape[1], offset)  # (B, T, C) + (T, C)
        return self.dropout(x)

    def _earlier_vectors(self, ids: Tensor, x: Tensor) -> Tensor:
        """Return the sum over distances of the vectors of earlier tokens, zero before the first.

        Args:
            ids: (B, N + T), of which the last T are embedded.
            x: (B, T, C), the result's shape.
        """
        length, (B, T, C) = ids.shape[1], x.shape
        assert self.earlier is not None
        total = x.new_zeros(B, T, C)
        for distance, table in enumerate(self.earlier, start=1):
            first = max(distance, length - T)  # position of the first that has such a token
            if first < length:
                vectors = F.embedding(ids[:, first - distance : length - distance], table)
                total[:, T - (length - first) :] += vectors
        return total * self.scale


if __name__ == "__main__":
    from tiny_transformer.model.examples import show

    show(__file__)
