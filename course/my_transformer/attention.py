"""Attention, written by you: one head in module 01, several in module 02.

You begin with a dot product and end with whole parts of the model. The exercises use each
other: what you write first, you call later. `tiny course check 01` says how far you are, and
`tiny course hint EXERCISE` helps.

Dimensions: `B` batch, `H` heads, `T` tokens, `Tq` queries, `Tk` keys, `D` width of a head,
`C` width of the model; `...` stands for any axes in front, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig


def dot_product_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Return how well each query matches each key: their dot products.

        similarity[i, j] = sum over d of queries[i, d] * keys[j, d]

    The dot product grows with the lengths of both vectors: do not divide by them, as the
    cosine would. A long key can so say "I matter", and a long query "I am sure".

    Args:
        queries: (..., Tq, D), float.
        keys: (..., Tk, D), of the same dtype; the axes in front are those of the queries.

    Returns:
        (..., Tq, Tk), of the same dtype: a row for each query, a column for each key.

    Example:
        >>> queries = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
        >>> keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
        >>> dot_product_similarity(queries, keys)
        tensor([[1., 0., 3.],
                [2., 1., 6.]])
    """
    raise NotImplementedError("dot-product-similarity")


def weighted_average(weights: Tensor, values: Tensor) -> Tensor:
    """Return, for each query, the average of the values with that query's weights.

        output[i, d] = sum over j of weights[i, j] * values[j, d]

    Take the weights as they are. Mostly each row sums to one; after dropout it does not, and is
    not meant to, so do not divide again.

    Args:
        weights: (..., Tq, Tk), float: a row for each query.
        values: (..., Tk, D), of the same dtype: a vector for each key.

    Returns:
        (..., Tq, D), of the same dtype.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
        >>> values = torch.tensor([[4.0, 0.0, 8.0], [0.0, 4.0, 8.0]])
        >>> weighted_average(weights, values)
        tensor([[4., 0., 8.],
                [1., 3., 8.]])
    """
    raise NotImplementedError("weighted-average")


def softmax_by_formula(scores: Tensor, dim: int = -1) -> Tensor:
    """Turn scores into positive weights that sum to one along an axis, by the formula.

        softmax(s)_j = exp(s_j) / (sum over k of exp(s_k))

    Write it with exponentials and a sum; the scores here are small (between -50 and 50).

    Args:
        scores: any shape, float.
        dim: the axis along which the weights sum to one; -1 is the last.

    Returns:
        The shape and dtype of `scores`.

    Example: the exponentials of log 1, log 2 and log 5 are 1, 2 and 5, which sum to 8.
        >>> softmax_by_formula(torch.tensor([1.0, 2.0, 5.0]).log())
        tensor([0.1250, 0.2500, 0.6250])
    """
    raise NotImplementedError("softmax-by-formula")


def softmax(scores: Tensor, dim: int = -1) -> Tensor:
    """Return the softmax for scores of any size.

    The same function as `softmax_by_formula`, which overflows: float32 knows no exp(89). A
    softmax does not change when one number is added to all scores of a row, and you may
    choose the number. Still by hand: `torch.softmax` is what you are writing.

    Args:
        scores: any shape, float, of any size; `-inf` is allowed and gets the weight 0, as
            long as some score along `dim` is finite.
        dim: the axis along which the weights sum to one; -1 is the last.

    Returns:
        The shape and dtype of `scores`, never NaN.

    Example:
        >>> softmax(torch.tensor([1000.0, 1000.0, float("-inf")]))
        tensor([0.5000, 0.5000, 0.0000])
    """
    raise NotImplementedError("softmax")


def softmax_with_temperature(scores: Tensor, temperature: float) -> Tensor:
    """Return the softmax over the last axis of scores divided by a temperature.

        softmax(s / temperature)

    At 1 it is the softmax. Below 1 it is sharper, towards all the weight on the largest
    score; above 1 it is flatter, towards equal weights. Use your `softmax`.

    Args:
        scores: (..., Tk), float.
        temperature: above 0.

    Returns:
        The shape and dtype of `scores`.

    Example: at half the temperature the odds 1 : 3 become 1 : 9.
        >>> scores = torch.tensor([0.0, 1.0986123])  # log 1, log 3
        >>> softmax_with_temperature(scores, 1.0)
        tensor([0.2500, 0.7500])
        >>> softmax_with_temperature(scores, 0.5)
        tensor([0.1000, 0.9000])
    """
    raise NotImplementedError("softmax-with-temperature")


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """Return which keys each query may look at: its own and all earlier ones.

    The queries are the last `n_queries` of the `n_keys` positions: with as many queries as
    keys, query 0 stands at key 0; with fewer, the last query stands at the last key. (A model
    that writes keeps old keys, and asks only for its newest tokens.)

    Args:
        n_queries: how many queries, at most `n_keys`.
        n_keys: how many keys.
        device: where to make the mask; None is PyTorch's default.

    Returns:
        (n_queries, n_keys), bool: True where the query may look.

    Example:
        >>> causal_mask(3, 3).int()
        tensor([[1, 0, 0],
                [1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
        >>> causal_mask(2, 4).int()
        tensor([[1, 1, 1, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    raise NotImplementedError("causal-mask")


def dot_product_variance(d_k: int, q_std: float = 1.0, k_std: float = 1.0) -> float:
    """Return the variance of the dot product of two random vectors.

    A query and a key have `d_k` components each. All are independent, with mean 0; those of
    the query have the standard deviation `q_std`, those of the key `k_std`. Derive on paper:
    what is the variance of one product q_d * k_d, and what that of the sum of `d_k` such?

    Args:
        d_k: number of components.
        q_std: standard deviation of the query's components.
        k_std: standard deviation of the key's components.

    Returns:
        The variance (not the standard deviation) of `sum over d of q_d * k_d`.

    Example: for unit variance it is easy to remember.
        >>> dot_product_variance(64)
        64.0
    """
    raise NotImplementedError("dot-product-variance")


def scaled_scores(q: Tensor, k: Tensor) -> Tensor:
    """Return the scores of attention: dot products, scaled to a variance of about 1.

        scores = q k^T / sqrt(D)

    You have derived why: the dot product of two vectors of unit variance has the variance D.
    Use your `dot_product_similarity`.

    Args:
        q: (..., Tq, D) queries, float.
        k: (..., Tk, D) keys.

    Returns:
        (..., Tq, Tk), of the same dtype. The inputs are not changed.

    Example:
        >>> q = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
        >>> k = torch.tensor([[1.0, 0.0, 0.0, 0.0], [3.0, 5.0, 5.0, 5.0]])
        >>> scaled_scores(q, k)
        tensor([[1., 3.]])
    """
    raise NotImplementedError("scaled-scores")


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the keys that each query may look at; the others get exactly 0.

    A hidden key must leave no trace: the weights are those of a softmax over the visible keys
    alone, whatever the hidden scores are. Use your `softmax`.

    Args:
        scores: (..., Tq, Tk), float. They are not changed.
        mask: bool, True where a query may look; (Tq, Tk) or any shape that broadcasts to that
            of the scores.

    Returns:
        (..., Tq, Tk), of the dtype of `scores`. Each row sums to one; the row of a query that
        may look at nothing is all zeros, and not NaN.

    Example:
        >>> scores = torch.tensor([[0.0, 5.0, 7.0], [0.0, 0.0, 9.0]])
        >>> mask = torch.tensor([[True, False, False], [True, True, False]])
        >>> masked_softmax(scores, mask)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000]])
    """
    raise NotImplementedError("masked-softmax")


def three_tokens_by_hand() -> tuple[list[list[float]], list[list[float]]]:
    """Return causal attention over three tokens, worked out by you on paper.

    With a pencil: the products, the scale 1/sqrt(4), the mask, the exponentials, the weights,
    the averages. `ln` is the natural logarithm, so exp(ln 3) is 3 and everything comes out
    even. Write the numbers into lists and return them.

        token    query                           key              value
        0        (0, 2 ln 2, 0, 2 ln 3)          (1, 1, 0, 0)     (8, 0)
        1        (2 ln 3, 0, 0, 2 ln 4)          (0, 1, 1, 0)     (0, 8)
        2        (-2 ln 2, 2 ln 2, 0, 2 ln 5)    (0, 0, 1, 1)     (8, 8)

    Returns:
        The weights, three rows (queries) of three (keys), and the outputs, three rows of two.

    Example: the first rows of the two, as a present.
        [1, 0, 0] and [8, 0]
    """
    raise NotImplementedError("three-tokens-by-hand")


def explicit_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return causal scaled dot-product attention: what each query takes from the values.

        weights = softmax(q k^T / sqrt(D), over the keys up to the query's own)
        output = drop(weights) v

    You have all the pieces. The queries are the last Tq of the Tk positions, as in
    `causal_mask`.

    Args:
        q: (B, H, Tq, D) queries, float. None of the inputs is changed.
        k: (B, H, Tk, D) keys.
        v: (B, H, Tk, D) values.
        dropout: probability of zeroing a weight; those that stay are divided by
            `1 - dropout`. It is applied whenever it is above 0: this function does not know
            whether the model trains.

    Returns:
        The output (B, H, Tq, D), and the weights (B, H, Tq, Tk) as they were before dropout,
        each row summing to one. Both have the dtype of the inputs.

    Example: equal scores give plain averages over what each query may see.
        >>> zeros = torch.zeros(1, 1, 2, 2)
        >>> v = torch.tensor([[[[4.0, 0.0], [0.0, 8.0]]]])
        >>> output, weights = explicit_attention(zeros, zeros, v)
        >>> output
        tensor([[[[4., 0.],
                  [2., 4.]]]])
        >>> weights
        tensor([[[[1.0000, 0.0000],
                  [0.5000, 0.5000]]]])
    """
    raise NotImplementedError("explicit-attention")


def attention_entropy(weights: Tensor) -> Tensor:
    """Return how spread each query's attention is: the entropy of its weights, in nats.

        H_i = - sum over j of weights[i, j] * ln(weights[i, j])

    All the weight on one key gives 0; equal weights on n keys give ln n. A weight of 0 adds
    nothing, for w ln w goes to 0 with w.

    Args:
        weights: (..., Tq, Tk), float, at least 0; each row sums to one.

    Returns:
        (..., Tq), of the same dtype, never NaN.

    Example: two equal weights have the entropy ln 2.
        >>> attention_entropy(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])).abs()
        tensor([0.0000, 0.6931])
    """
    raise NotImplementedError("attention-entropy")


def attention_flops(n_tokens: int, d_model: int) -> tuple[int, int]:
    """Return the floating-point operations of one attention part, forward, for one sequence.

    A product of an (a, b) and a (b, c) matrix takes `2 a b c` operations: b multiplications
    and b additions for each of a c numbers. Count every matrix product of one head as wide as
    the model, and leave out all else (biases, softmax), which is small. Nothing is saved by
    the mask: hidden scores are computed and thrown away.

    Args:
        n_tokens: T, the length of the sequence.
        d_model: C, the width.

    Returns:
        The operations of the four projections (to queries, keys and values, and back), and
        those of the mixing (the scores, and the weighted average).

    Example: the first grows with the length, the second with its square.
        >>> attention_flops(1, 1)
        (8, 4)
        >>> attention_flops(10, 1)
        (80, 400)
    """
    raise NotImplementedError("attention-flops")


def attention_weight_bytes(
    batch_size: int, n_heads: int, n_tokens: int, bytes_per_value: int = 4
) -> int:
    """Return the bytes of the attention weights of one layer.

    Every head of every sequence has a weight for each pair of a query and a key, the hidden
    ones included.

    Args:
        batch_size: sequences side by side.
        n_heads: heads.
        n_tokens: length of each sequence.
        bytes_per_value: 4 for float32, 2 for bfloat16.

    Returns:
        Bytes, a whole number.

    Example: 32 windows of 256 tokens and 4 heads take 32 MiB, in each layer.
        >>> attention_weight_bytes(32, 4, 256) / 2**20
        32.0
    """
    raise NotImplementedError("attention-weight-bytes")


def is_permutation_equivariant(
    attend: Callable[[Tensor], Tensor], x: Tensor, order: Tensor
) -> bool:
    """Return whether a function treats tokens as a set: reorder them, and it does the same.

        attend(x[order]) = attend(x)[order]

    Sums come out a little different in another order: allow 1e-4 between numbers.

    Args:
        attend: maps (..., T, C) to (..., T, C), for instance attention without a mask.
        x: (..., T, C), the tokens. It is not changed.
        order: (T,), int64, a permutation of 0 to T - 1: the new token t is the old `order[t]`.

    Returns:
        True or False, a plain bool.

    Example: what happens to each token alone is equivariant; to mark the first is not.
        >>> x, order = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0, 1])
        >>> is_permutation_equivariant(lambda x: 2 * x, x, order)
        True
        >>> is_permutation_equivariant(lambda x: x - x[..., :1, :], x, order)
        False
    """
    raise NotImplementedError("permutation-equivariance")


def softmax_backward(weights: Tensor, grad_weights: Tensor) -> Tensor:
    """Return the gradient of the scores, given that of the weights = softmax(scores).

    The Jacobian of a softmax is d w_j / d s_k = w_j (1 if j = k else 0) - w_j w_k. You need
    not build it: multiply it by the gradient on paper, and a short formula is left.

    Args:
        weights: (..., Tq, Tk), each row a softmax over the last axis.
        grad_weights: (..., Tq, Tk), the gradient of some loss by the weights.

    Returns:
        (..., Tq, Tk), the gradient of that loss by the scores. The inputs are not changed.

    Example: raising every score alike changes nothing, so the gradients of a row sum to 0.
        >>> softmax_backward(torch.tensor([[0.25, 0.75]]), torch.tensor([[8.0, 0.0]]))
        tensor([[ 1.5000, -1.5000]])
    """
    raise NotImplementedError("softmax-backward")


def attention_backward(
    q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values through causal attention.

    What autograd does behind `explicit_attention` without dropout, step by step from the end:
    output = weights v, weights = softmax(scores), scores = q k^T / sqrt(D). For a product
    Y = A B, the gradients are dA = dY B^T and dB = A^T dY. Do not call autograd.

    Args:
        q: (B, H, Tq, D), the last Tq of the Tk positions.
        k: (B, H, Tk, D).
        v: (B, H, Tk, D).
        grad_output: (B, H, Tq, D), the gradient of some loss by the output.

    Returns:
        The gradients of that loss by q, k and v, in this order, each of its tensor's shape
        and dtype.

    Example: a single token gives all its weight to itself, whatever q and k are.
        >>> one = torch.ones(1, 1, 1, 2)
        >>> dq, dk, dv = attention_backward(one, one, one, torch.tensor([[[[3.0, 4.0]]]]))
        >>> dq.abs().sum().item(), dk.abs().sum().item(), dv.flatten().tolist()
        (0.0, 0.0, [3.0, 4.0])
    """
    raise NotImplementedError("attention-backward")


class SingleHeadAttention(nn.Module):
    """Causal self-attention with one head as wide as the model: your first whole part.

        q, k, v = q_proj(x), k_proj(x), v_proj(x)
        y = o_proj(drop(softmax(q k^T / sqrt(C), causal)) v)

    It can take the place of the attention in the real model: it is built from the model's
    config, maps the same shapes, and its parameters have the names that the reference's have,
    so weights load from one into the other.

    Args:
        config: the architecture; `d_model`, `bias` and `dropout` matter here.

    Parameters, and nothing else in `state_dict`: four linear layers `q_proj`, `k_proj`,
    `v_proj`, `o_proj`, each `(C, C)`, with a bias each if `config.bias`.

    Dropout zeroes attention weights with probability `config.dropout` while training, and
    does nothing in evaluation; `nn.Module` keeps `self.training` for you.

    Shape: (B, T, C) -> (B, T, C), for any T up to `config.context_length`. The dtype and the
    device are those of `x`, which is not changed.

    Example:
        >>> config = ModelConfig(d_model=8, n_heads=1, dropout=0.0)
        >>> SingleHeadAttention(config)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, config: ModelConfig) -> None:
        raise NotImplementedError("single-head-attention")

    def forward(self, x: Tensor) -> Tensor:
        """Let each token of `x` (B, T, C) look at itself and the past."""
        raise NotImplementedError("single-head-attention")


# Module 02: several heads


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Cut the channels of every token into heads, and put the heads beside the batch.

        heads[b, h, t, d] = x[b, t, h * D + d],  with D = C / H

    Head 0 gets the first D channels of each token, head 1 the next D, and so on. Mind which
    numbers end up where: a tensor of the right shape can hold the wrong ones.

    Args:
        x: (B, T, C), of any dtype; C is a multiple of `n_heads`.
        n_heads: H.

    Returns:
        (B, H, T, D), the same numbers and dtype. `x` is not changed.

    Example: two tokens of four channels, two heads of two.
        >>> x = torch.tensor([[[0, 1, 2, 3], [10, 11, 12, 13]]])
        >>> split_heads(x, 2).tolist()
        [[[[0, 1], [10, 11]], [[2, 3], [12, 13]]]]
    """
    raise NotImplementedError("split-heads")


def merge_heads(heads: Tensor) -> Tensor:
    """Put what the heads found side by side again: the way back from `split_heads`.

        y[b, t, h * D + d] = heads[b, h, t, d]

    Args:
        heads: (B, H, T, D), of any dtype, wherever its numbers lie in memory.

    Returns:
        (B, T, C) with C = H * D, the same numbers and dtype. `heads` is not changed.

    Example: the two heads of the example above.
        >>> heads = torch.tensor([[[[0, 1], [10, 11]], [[2, 3], [12, 13]]]])
        >>> merge_heads(heads).tolist()
        [[[0, 1, 2, 3], [10, 11, 12, 13]]]
    """
    raise NotImplementedError("merge-heads")


def join_head_weights(head_weights: Sequence[Tensor]) -> Tensor:
    """Make one large projection of the heads' small ones.

    Each head could have a linear layer of its own that makes its D numbers from the C of a
    token. One layer that makes all H * D numbers at once does the same in one product, if its
    weight is put together so that its output, split into heads, is what the small ones give:

        split_heads(x W^T, H)[:, h] = x W_h^T

    Args:
        head_weights: H matrices W_h, each (D, C) as `nn.Linear(C, D)` keeps its weight: a row
            for each number that comes out.

    Returns:
        W, (H * D, C), of the same dtype: the weight of an `nn.Linear(C, H * D)`.

    Example: two heads that each make one number of three.
        >>> join_head_weights([torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]])]).tolist()
        [[1, 2, 3], [4, 5, 6]]
    """
    raise NotImplementedError("join-head-weights")


def repeat_kv_heads(kv: Tensor, n_heads: int) -> Tensor:
    """Give every query head the keys (or values) that it shares with its neighbours.

    In grouped-query attention there are fewer heads of keys and values than of queries. Query
    heads that stand next to each other share one: with 6 of queries and 3 of keys, query heads
    0 and 1 use key head 0, heads 2 and 3 key head 1, heads 4 and 5 key head 2.

        repeated[:, h] = kv[:, h // (H / H_kv)]

    Args:
        kv: (B, H_kv, T, D), keys or values; H_kv divides `n_heads`, and may be equal to it.
        n_heads: H, the number of query heads.

    Returns:
        (B, H, T, D), of the same dtype. `kv` is not changed.

    Example: two heads of one token and one channel, for four query heads.
        >>> repeat_kv_heads(torch.tensor([[[[5]], [[7]]]]), 4).tolist()
        [[[[5]], [[5]], [[7]], [[7]]]]
    """
    raise NotImplementedError("repeat-kv-heads")


def multi_head_parameters(
    d_model: int, n_heads: int, n_kv_heads: int | None = None, bias: bool = True
) -> int:
    """Return how many numbers a multi-head attention learns.

    Four linear layers: to the queries of all heads, to the keys and to the values of all
    key-value heads, and from all heads back to the model's width. Every head, of queries, keys
    or values, is `d_model / n_heads` wide.

    Args:
        d_model: C, the width of the model.
        n_heads: H, heads of queries; it divides `d_model`.
        n_kv_heads: heads of keys, and of values; None means as many as of queries.
        bias: whether each layer has a bias: a number for each number that comes out of it.

    Returns:
        A whole number.

    Example:
        >>> multi_head_parameters(1, 1), multi_head_parameters(1, 1, bias=False)
        (8, 4)
        >>> multi_head_parameters(256, 4) == multi_head_parameters(256, 8)
        True
    """
    raise NotImplementedError("multi-head-parameters")


def multi_head_flops(
    n_tokens: int, d_model: int, n_heads: int, n_kv_heads: int | None = None
) -> tuple[int, int]:
    """Return the floating-point operations of a multi-head attention for one sequence.

    As in `attention_flops`: a product of an (a, b) and a (b, c) matrix takes `2 a b c`, only
    matrix products count, and the mask saves nothing. Count those of each head, with its own
    width, and all heads together. Keys and values are repeated before they meet the queries:
    repeating costs nothing here, and saves nothing after it.

    Args:
        n_tokens: T.
        d_model: C.
        n_heads: H, heads of queries; it divides `d_model`.
        n_kv_heads: heads of keys, and of values; None means as many as of queries.

    Returns:
        The operations of the four projections, and those of the mixing (scores and average).

    Example: with one head it is what you know.
        >>> multi_head_flops(10, 1, 1) == attention_flops(10, 1) == (80, 400)
        True
    """
    raise NotImplementedError("multi-head-flops")


def fused_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Return the output of `explicit_attention`, by PyTorch's own fused operation.

    `torch.nn.functional.scaled_dot_product_attention` takes scores, mask, softmax, dropout and
    average in one go and never stores the weights. Read what it expects of its mask, what it
    does with `is_causal` when there are fewer queries than keys, and whether it scales.

    Args:
        q: (B, H, Tq, D) queries, float, the last Tq of the Tk positions, as in `causal_mask`.
            None of the inputs is changed.
        k: (B, H, Tk, D) keys.
        v: (B, H, Tk, D) values.
        dropout: probability of zeroing a weight, applied whenever it is above 0.

    Returns:
        The output (B, H, Tq, D) alone, of the dtype of the inputs.

    Example: one query over three keys, all alike to it, sees every one of them.
        >>> v = torch.tensor([[[[3.0], [6.0], [9.0]]]])
        >>> fused_attention(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 3, 1), v).item()
        6.0
    """
    raise NotImplementedError("fused-attention")


def head_divergence(weights: Tensor) -> Tensor:
    """Return how differently each two heads look: the Jensen-Shannon divergence of their weights.

        JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2

    where H is the entropy in nats, and p and q are the weights of one query in two heads. It is
    0 where both look alike, and ln 2 = 0.6931 where they look at no key in common. Take it for
    each query of each sequence, and the mean over all of them.

    Args:
        weights: (B, H, Tq, Tk), float; each row sums to one. Weights may be 0.

    Returns:
        (H, H), of the same dtype: symmetric, and 0 on the diagonal up to rounding.

    Example: head 0 looks at key 0, head 1 at key 1, head 2 at both.
        >>> weights = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]]])
        >>> head_divergence(weights)[0].abs()
        tensor([0.0000, 0.6931, 0.2158])
    """
    raise NotImplementedError("head-divergence")


def head_contributions(heads: Tensor, o_weight: Tensor) -> Tensor:
    """Return what each head alone adds to the output.

    Merging the heads and projecting the result, `merge_heads(heads) o_weight^T`, is a sum with
    one term for each head. Here are the terms, before they are added:

        sum over h of contributions[:, h] = merge_heads(heads) o_weight^T

    Args:
        heads: (B, H, T, D), float, what each head found.
        o_weight: (C, H * D), the weight of the last projection as `nn.Linear` keeps it: a row
            for each number that comes out. C need not be H * D.

    Returns:
        (B, H, T, C), of the same dtype.

    Example: two heads of one number each, and one number that comes out.
        >>> heads = torch.tensor([[[[2.0]], [[3.0]]]])
        >>> head_contributions(heads, torch.tensor([[10.0, 100.0]])).tolist()
        [[[[20.0]], [[300.0]]]]
    """
    raise NotImplementedError("head-contributions")


def head_importance(loss_of: Callable[[Tensor], Tensor], n_heads: int) -> Tensor:
    """Return how much the loss rises when each head alone is silenced.

    A gate is a factor in front of a head's output: 1 leaves it as it is, 0 silences it.

        importance[h] = loss with gate h closed and all others open - loss with all open

    Args:
        loss_of: takes gates, (H,), float32, and returns the loss with them, a tensor of one
            number without axes. It may keep the gates that it is given.
        n_heads: H.

    Returns:
        (H,), of the dtype of the losses. A head that the model is better without is negative.

    Example: a loss that head 0 lowers by 2, and head 1 raises by 1.
        >>> head_importance(lambda gates: 5 - 2 * gates[0] + 1 * gates[1], 2).tolist()
        [2.0, -1.0]
    """
    raise NotImplementedError("head-importance")


class MultiHeadAttention(nn.Module):
    """Causal self-attention with several heads: the attention of the real model.

        q, k, v = q_proj(x), k_proj(x), v_proj(x), each split into heads
        y = o_proj(merge(drop(softmax(q k^T / sqrt(D), causal)) v))

    Args:
        config: the architecture. `d_model` (C), `n_heads` (H), `head_dim` (D = C / H),
            `kv_heads` (H_kv: heads of keys and of values, H where the user asks for nothing
            else), `bias` and `dropout` matter here.

    Parameters, and nothing else in `state_dict`: four linear layers, each with a bias if
    `config.bias`. `q_proj` and `o_proj` are (C, C); `k_proj` and `v_proj` make H_kv * D numbers
    of C. Each key-value head serves H / H_kv query heads, as in `repeat_kv_heads`.

    Dropout zeroes attention weights with probability `config.dropout` while training.

    A model asks an attention part what it can do beyond this, in a set of names that stands in
    the class. Yours knows key-value heads, so it says: `capabilities = {"grouped_heads"}`.

    Shape: (B, T, C) -> (B, T, C), for any T up to `config.context_length`. The dtype and the
    device are those of `x`, which is not changed.

    Example:
        >>> config = ModelConfig(d_model=12, n_heads=3, dropout=0.0)
        >>> MultiHeadAttention(config)(torch.zeros(2, 5, 12)).shape
        torch.Size([2, 5, 12])
    """

    def __init__(self, config: ModelConfig) -> None:
        raise NotImplementedError("multi-head-attention")

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        """Let each token of `x` (B, T, C) look at itself and the past, in every head.

        `cache` is None unless `capabilities` has "kv_cache", which is not asked for: leave it.
        (A later module uses it. `cache.extend(k, v)`, with k and v (B, H_kv, T, D), keeps them
        and returns those of all tokens so far.)
        """
        raise NotImplementedError("multi-head-attention")
