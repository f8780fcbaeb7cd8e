"""Embeddings, written by you: module 04, what a token is.

Token ids become vectors here, and at the other end of the model vectors become scores of
tokens again. Where a token stands comes from `positional.py`; the last class of this file
brings the two together. `tiny course check 04` says how far you are, and
`tiny course hint EXERCISE` helps.

Dimensions: `B` batch, `T` tokens, `C` width of the model (`d_model`), `V` tokens of the
vocabulary; `...` stands for any axes, or none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig


def one_hot(ids: Tensor, vocab_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return, for each id, a vector that is 1 at that id and 0 everywhere else.

    Multiplied with a table of V rows, such a vector picks one row: the look-up of an embedding
    is a matrix product. Nobody computes it so, but it says what the gradient is.

    Args:
        ids: (...), int64, each from 0 to `vocab_size - 1`.
        vocab_size: V. Not every id need occur.
        dtype: of the result.

    Returns:
        (..., V), of that dtype, on the device of `ids`.

    Example:
        >>> one_hot(torch.tensor([2, 0]), 4)
        tensor([[0., 0., 1., 0.],
                [1., 0., 0., 0.]])
        >>> one_hot(torch.tensor([2, 0]), 4) @ torch.tensor([[5.0], [6.0], [7.0], [8.0]])
        tensor([[7.],
                [5.]])
    """
    raise NotImplementedError("one-hot")


def token_logits(x: Tensor, table: Tensor) -> Tensor:
    """Return how well each vector of the stream matches the vector of each token.

        logits[..., v] = sum over c of x[..., c] * table[v, c]

    With tied weights, this is the last step of the model: the table that turned tokens into
    vectors turns vectors into scores of tokens. The scores are plain dot products.

    Args:
        x: (..., C), float: what the model has made of each position.
        table: (V, C), of the same dtype: a row for each token.

    Returns:
        (..., V), of the same dtype. The inputs are not changed.

    Example: the vector is nearest to token 1, and opposed to token 2.
        >>> table = torch.tensor([[1.0, 0.0], [2.0, 2.0], [-1.0, -3.0]])
        >>> token_logits(torch.tensor([[1.0, 1.0]]), table)
        tensor([[ 1.,  4., -4.]])
    """
    raise NotImplementedError("token-logits")


def embedding_gradient(ids: Tensor, grad_vectors: Tensor, vocab_size: int) -> Tensor:
    """Return the gradient of the embedding table, given that of the vectors looked up in it.

    For a product Y = A W, the gradient is dW = A^T dY; here A is made of one-hot rows. So each
    token's row is the sum over all places where the token stands, in all sequences; a token
    that does not occur gets zeros. Do not call autograd.

    Args:
        ids: (B, T), int64.
        grad_vectors: (B, T, C), float: the gradient of some loss by each vector.
        vocab_size: V.

    Returns:
        (V, C), of the dtype of `grad_vectors`. The inputs are not changed.

    Example: token 1 stands twice, token 0 once, token 2 nowhere.
        >>> ids = torch.tensor([[1, 0, 1]])
        >>> grad_vectors = torch.tensor([[[1.0, 0.0], [5.0, 5.0], [2.0, 3.0]]])
        >>> embedding_gradient(ids, grad_vectors, 3)
        tensor([[5., 5.],
                [3., 3.],
                [0., 0.]])
    """
    raise NotImplementedError("embedding-gradient")


class TokenEmbedding(nn.Module):
    """A learned vector for each token: a part of the real model.

        y[b, t] = weight[ids[b, t]]                  or
        y[b, t] = weight[ids[b, t]] * sqrt(C)        if config.scale_embeddings

    The factor acts on what is looked up. The table itself is left alone, for the output layer
    may share it, and wants it as it is.

    Args:
        config: the architecture; `vocab_size`, `d_model` and `scale_embeddings` matter here.

    Parameters, and nothing else in `state_dict`: `weight`, (V, C). What is in it at first does
    not matter: the model draws its first numbers.

    Shape: (B, T) int64 -> (B, T, C), of the dtype of `weight`.

    Example: the root of 4 is 2.
        >>> config = ModelConfig(vocab_size=5, d_model=4, scale_embeddings=True)
        >>> part = TokenEmbedding(config)
        >>> part.weight.data.fill_(1.5).shape
        torch.Size([5, 4])
        >>> part(torch.tensor([[3, 0]])).tolist()
        [[[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]]
    """

    weight: Tensor

    def __init__(self, config: ModelConfig) -> None:
        raise NotImplementedError("token-embedding")

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the vector of each of `ids` (B, T)."""
        raise NotImplementedError("token-embedding")


class Embeddings(nn.Module):
    """What the first block gets: token vectors plus position vectors, then dropout.

        x[b, t] = drop(token(ids)[b, t] + position(T, offset)[t])

    The two are parts themselves, and may be replaced: build them from the classes in `parts`,
    each from the config, and do not name a class of your own here. Rotary positions act inside
    attention, and with `none` there are no positions; then nothing is added, and no position
    part is built.

    Args:
        config: the architecture; `position` and `dropout` matter here. Positions are added if
            it is `learned` or `sinusoidal`.
        parts: has the classes `token_embedding` and `positional_embedding`.

    Parameters: those of the two parts, under the names `token` and `position`; with learned
    positions that makes `token.weight` (V, C) and `position.weight` (context_length, C).

    Dropout zeroes numbers of the sum with probability `config.dropout` while training, divides
    the others by `1 - config.dropout`, and does nothing in evaluation.

    Shape: (B, T) int64 -> (B, T, C).

    Example:
        >>> from types import SimpleNamespace
        >>> config = ModelConfig(vocab_size=5, d_model=4, position="none", dropout=0.0)
        >>> part = Embeddings(config, SimpleNamespace(token_embedding=TokenEmbedding))
        >>> part(torch.tensor([[3, 0, 3]])).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: ModelConfig, parts: Any) -> None:
        raise NotImplementedError("embedding-layer")

    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        """Embed `ids` (B, T), the first of which stands at position `offset`.

        Args:
            ids: (B, T), int64.
            offset: how many tokens came before; above 0 where they are kept in a cache.
        """
        raise NotImplementedError("embedding-layer")
