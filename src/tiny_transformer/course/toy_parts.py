"""Parts that are built and run in a fraction of a millisecond, to test what puts parts together.

They look back, add positions, drop and normalise, as real ones do, with a matrix a layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.parts import Parts


class ToyBlock(nn.Module):
    """Adds a function of the mean of the past, which stands for attention and MLP."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.norm1 = parts.build_norm(config)
        self.mlp = nn.Linear(config.d_model, config.d_model)
        self.dropout = config.dropout

    def forward(self, x: Float[Tensor, "B T C"], cache: Any = None) -> Float[Tensor, "B T C"]:
        """Let each token take in what came before it."""
        counts = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)[:, None]
        y = torch.tanh(self.mlp(self.norm1(x).cumsum(dim=1) / counts))
        return x + F.dropout(y, self.dropout, self.training)


class ToyEmbeddings(nn.Module):
    """A table of tokens and one of positions, which begins again where the context ends."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.d_model)
        self.position = nn.Embedding(config.context_length, config.d_model)
        self.dropout = config.dropout

    def forward(
        self, ids: Int[Tensor, "B T"], offset: int = 0, before: Tensor | None = None
    ) -> Float[Tensor, "B T C"]:
        """Embed ids whose first position is `offset`."""
        places = torch.arange(offset, offset + ids.shape[-1], device=ids.device)
        x = self.token(ids) + self.position(places % self.position.num_embeddings)
        return F.dropout(x, self.dropout, self.training)


def toy_parts(config: ModelConfig) -> Parts:
    """Return the parts for `config`, blocks and embeddings among them toys."""
    return Parts.for_config(config, block=ToyBlock, embeddings=ToyEmbeddings)
