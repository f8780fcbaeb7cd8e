"""Positions, written by you: module 04, where a token stands.

Attention by itself does not know the order of its tokens. Here are three ways to tell it: a
learned vector for each position, waves of many lengths, and rotations of queries and keys.
`tiny course check 04` says how far you are.

Dimensions: `B` batch, `H` heads, `T` tokens, `Tq` queries, `Tk` keys, `C` width of the model
(`d_model`), `D` width of a head; `half` is half of a width: the number of pairs in it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig


def rotary_angles(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Return the angle of each clock hand at each position.

        angles[t, i] = positions[t] / base^(2 i / head_dim)        for i = 0 .. head_dim/2 - 1

    There is a hand for each pair of channels. The first turns by one radian a token, and each
    further one more slowly, by the same factor each time. All else in this file uses these
    angles: sinusoidal positions take their sine and cosine, rotary ones turn by them.

    Args:
        positions: (T,), int64, in any order.
        head_dim: the number of channels, even. (For sinusoidal positions it is C.)
        base: of many hands, the slowest turns nearly `base` times as slowly as the first.

    Returns:
        (T, head_dim / 2), float64: a large position times a frequency needs the digits.

    Example: 4 channels are two hands, and with the base 100 the second is 10 times slower.
        >>> rotary_angles(torch.tensor([0, 1, 30]), 4, base=100.0)
        tensor([[ 0.0000,  0.0000],
                [ 1.0000,  0.1000],
                [30.0000,  3.0000]], dtype=torch.float64)
    """
    raise NotImplementedError("position-angles")


def sinusoidal_table(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    """Return the sinusoidal code of positions 0 to `length - 1`, a row for each.

        table[p, 2 i]     = sin(p / base^(2 i / d_model))
        table[p, 2 i + 1] = cos(p / base^(2 i / d_model))

    Sine and cosine take turns, and the two of a pair have the same angle. Use your
    `rotary_angles`.

    Args:
        length: number of positions.
        d_model: C, the number of columns, even.
        base: as in `rotary_angles`.

    Returns:
        (length, C), float32.

    Example: sin 0 = 0 and cos 0 = 1; sin 1 = 0.8415 and cos 1 = 0.5403.
        >>> sinusoidal_table(2, 4, base=100.0)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0998, 0.9950]])
    """
    raise NotImplementedError("sinusoidal-table")


class PositionalEmbedding(nn.Module):
    """A vector for each position, learned or sinusoidal: a part of the real model.

    Args:
        config: the architecture; `position`, `context_length`, `d_model` and `rotary_base`
            matter here. Where `position` is `learned`, the table is a parameter; else it is
            that of your `sinusoidal_table`, with `rotary_base` as its base.

    Attributes: `weight`, (context_length, C). If it is learned, it is the one parameter, and what
    is in it at first does not matter. If it is sinusoidal, nothing is learned and nothing is
    stored: there are no parameters, and `state_dict` is empty. It still has to move with
    the model, to a GPU or to another dtype.

    Shape: a length and an offset -> (length, C). There is no batch: all sequences get the same.

    Example:
        >>> config = ModelConfig(d_model=4, context_length=9, position="sinusoidal")
        >>> part = PositionalEmbedding(config)
        >>> part(2).shape, len(part.state_dict())
        (torch.Size([2, 4]), 0)
        >>> part(1, offset=1)
        tensor([[0.8415, 0.5403, 0.0100, 0.9999]])
    """

    weight: Tensor

    def __init__(self, config: ModelConfig) -> None:
        raise NotImplementedError("positional-embedding")

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Return the vectors of `length` positions, the first of which is `offset`."""
        raise NotImplementedError("positional-embedding")


def shift_matrix(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    """Return the matrix that moves the sinusoidal code by an offset, wherever it starts.

        shift_matrix(k) @ code(p) = code(p + k)        for every p

    where `code(p)` is row p of the sinusoidal table, as a column. The matrix knows k and not
    p: so a linear layer can say "three tokens before" with one set of weights. Derive it on
    paper for one pair, with a = angle(p) and b = angle(k):

        sin(a + b) = sin a cos b + cos a sin b
        cos(a + b) = cos a cos b - sin a sin b

    Args:
        offset: k; below 0 it moves back.
        d_model: C, even.
        base: as in `rotary_angles`.

    Returns:
        (C, C), float64.

    Example: two channels are one pair; one token further is one radian further.
        >>> shift_matrix(1, 2)
        tensor([[ 0.5403,  0.8415],
                [-0.8415,  0.5403]], dtype=torch.float64)
    """
    raise NotImplementedError("shift-matrix")


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of each vector, each pair by its own angle.

    A pair is channel i and channel i + D/2: one of the first half, one of the second. For i
    from 0 to D/2 - 1,

        turned[i]       = x[i] cos[i] - x[i + D/2] sin[i]
        turned[i + D/2] = x[i + D/2] cos[i] + x[i] sin[i]

    Args:
        x: (B, H, T, D), queries or keys, float. It is not changed.
        cos: (T, D/2), the cosine of each token's angles, float64 or float32.
        sin: (T, D/2), their sines.

    Returns:
        (B, H, T, D), of the dtype of `x`: the lengths of the vectors are what they were.

    Example: a quarter turn for the pair of channels 0 and 2, no turn for 1 and 3.
        >>> x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
        >>> apply_rotary(x, torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[[[-3.,  2.,  1.,  4.]]]])
    """
    raise NotImplementedError("apply-rotary")


def rotary_scores(q: Tensor, k: Tensor, base: float = 10000.0) -> Tensor:
    """Return the scores of attention with rotary positions.

        scores[m, n] = (q_m turned by m) . (k_n turned by n) / sqrt(D)

    Both are turned by the angles of their own positions, and the score then knows how far
    apart they are, and nothing of where. The keys stand at positions 0 to Tk - 1, and the
    queries are the last Tq of these, as when a model writes and older keys come from a cache.
    There is no mask here. Use your `rotary_angles` and `apply_rotary`.

    Args:
        q: (B, H, Tq, D) queries, float, Tq at most Tk; not turned yet, and not changed.
        k: (B, H, Tk, D) keys.
        base: as in `rotary_angles`.

    Returns:
        (B, H, Tq, Tk), of the same dtype and on the same device.

    Example: the same query and the same key at three positions. Along each diagonal the
    distance is the same, and so is the score: cos(distance).
        >>> ones = torch.tensor([1.0, 0.0]).expand(1, 1, 3, 2) * 2**0.25
        >>> rotary_scores(ones, ones)[0, 0]
        tensor([[ 1.0000,  0.5403, -0.4161],
                [ 0.5403,  1.0000,  0.5403],
                [-0.4161,  0.5403,  1.0000]])
    """
    raise NotImplementedError("rotary-scores")
