"""Embeddings, answered: module 04.

`TokenEmbedding` and `Embeddings` are the package's own, the ones that models run; what stands
here is what the package has no name for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_transformer.model.embeddings import Embeddings, TokenEmbedding

__all__ = ["Embeddings", "TokenEmbedding", "embedding_gradient", "one_hot", "token_logits"]


def one_hot(ids: Tensor, vocab_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return 1 at each id and 0 elsewhere, (..., V)."""
    return F.one_hot(ids, vocab_size).to(dtype)


def token_logits(x: Tensor, table: Tensor) -> Tensor:
    """Return the dot product of each vector with each row of the table, (..., V)."""
    return x @ table.transpose(0, 1)


def embedding_gradient(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    """Return the sum of the gradients of each token's vectors, (V, C)."""
    picked = one_hot(ids.flatten(), vocab_size, grad_vectors.dtype)  # (B T, V)
    return picked.transpose(0, 1) @ grad_vectors.flatten(0, 1)
