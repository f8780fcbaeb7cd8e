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

    Args:
        config: the architecture.
        parts: gives the classes of the two embeddings.

    Parameters: those of `token`, and of `position` unless positions are rotary or none.
    """

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.token = parts.token_embedding(config)
        added = config.position in ("learned", "sinusoidal")
        self.position = parts.positional_embedding(config) if added else None
        self.dropout = Dropout(config.dropout_probability)

    def forward(self, ids: Int[Tensor, "B T"], offset: int = 0) -> Float[Tensor, "B T C"]:
        """Embed ids whose first position is `offset`."""
        x = self.token(ids)
        if self.position is not None:
            x = x + self.position(ids.shape[1], offset)  # (B, T, C) + (T, C)
        return self.dropout(x)
