"""How many bytes a forward pass keeps for backward: the estimate, and the measurement.

Dimensions: `B` windows, `T` context length, `N = B T` tokens, `C` d_model, `H` heads, `K`
width of all `H_kv` key heads together, `F` width inside the MLP, `V` vocabulary, `L` layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiny_transformer.config import ModelConfig
from tiny_transformer.config.checks import check, check_at_least
from tiny_transformer.viz.parameters import block_matrix_parameters, kv_width, n_mlp_matrices

if TYPE_CHECKING:
    from torch import Tensor

_FLOAT32, _INT64 = 4, 8  # bytes
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class ActivationEstimate:
    """Bytes that one micro-batch's forward pass keeps for backward, by component."""

    embeddings: int
    """Token ids, and the dropout mask of the first residual stream."""
    norms: int
    """What the norms keep, those of QK-norm included."""
    attention: int
    """Inputs of the projections, queries, keys, values, output and attention weights."""
    mlp: int
    """Inputs of the projections, and what the non-linearity keeps."""
    dropout: int
    """Masks of the two residual branches of each block."""
    output: int
    """Input of the output projection, log-probabilities and targets."""
    weight_copies: int
    """bfloat16 copies of the matrices, made by autocast; 0 in float32."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.astuple(self))


def estimate_activations(
    config: ModelConfig, *, batch_size: int, precision: str = "float32"
) -> ActivationEstimate:
    """Return the bytes that a training forward pass and its loss keep for backward.

    Backward needs, of every operation, what its derivative is made of. A matrix product
    keeps its input (its weight is a parameter and costs nothing extra), a sum keeps
    nothing. With `a` bytes a value of the matrix products (4, or 2 under bfloat16), and 4
    bytes for the residual stream, the norms and the loss, on the CPU:

    | operation | kept |
    |---|---|
    | embeddings | ids `8 N` for each token of the window; with dropout its mask `4 N C` |
    | fused LayerNorm (`2 L + 1` of them) | input, mean, 1/deviation: `4 (N C + 2 N)` |
    | fused RMSNorm | input, 1/root, their product: `4 (2 N C + N)` |
    | explicit LayerNorm | two differences, 1/deviation, product: `4 (3 N C + N)` |
    | explicit RMSNorm | as the fused one |
    | QK-norm | as the norm, with `C + K` for the width and `H + H_kv` rows a token |
    | into q, k, v | the normalised input: `a N C`, which autocast copies for each of the 3 |
    | fused attention without dropout | q, k, v, output `4 a N C`, log-sums `4 N H` |
    | explicit attention | q, k, v, output `4 a N C`; mask `T^2`; softmax `4 B H T^2` |
    | ... with dropout | also its mask and the product: `2 a B H T^2` |
    | fused attention with dropout | 5 tensors `a N C`; weights `3 B H T^2`; mask `B H T^2` |
    | into the MLP | the normalised input: `a N C`, copied for each of SwiGLU's 2 |
    | MLP | `a N F` times 2 for gelu and relu2, 1 for relu, 4 for SwiGLU |
    | ... explicit | 4 for gelu, 5 for gelu_tanh, else the same |
    | residual dropout | two masks: `2 a N C` a layer |
    | output head and loss | input `a N C`, log-probabilities `4 N V`, targets `8 N` |

    PyTorch's fused attention has no dropout on a CPU: there `dropped_attention` takes over,
    which keeps three quarters of the weights, and in bfloat16 the explicit form. A GPU's kernel
    has it and keeps no `(T, T)` tensor: with dropout the estimate is too high there.
    Under bfloat16 the softmax without dropout is kept in both
    precisions, and a bfloat16 copy of every matrix is kept (`weight_copies`).

    Args:
        config: the architecture.
        batch_size: windows in the micro-batch, each as long as the context.
        precision: `"float32"`, or `"bfloat16"` for the autocast.

    Raises:
        ConfigError: the batch size is not positive, or the precision is unknown.
    """
    check_at_least("training", "batch_size", batch_size, 1)
    check(
        precision in _BYTES,
        f"training.precision is {precision!r}; expected {' or '.join(_BYTES)}.",
    )
    a = _BYTES[precision]
    N, C, L = batch_size * config.context_length, config.d_model, config.n_layers
    copies = 3 if precision == "bfloat16" else 1
    mlp_copies = n_mlp_matrices(config) - 1 if precision == "bfloat16" else 1
    matrices = block_matrix_parameters(config) + config.vocab_size * C
    inner = _saved_inner(config) * N * config.feed_forward_width
    return ActivationEstimate(
        embeddings=_INT64 * N * config.token_window
        + (_FLOAT32 * N * C if config.dropout_probability else 0),
        norms=(2 * L + 1) * _FLOAT32 * _saved_norm(config, N) + L * _saved_qk_norm(config, N, a),
        attention=L * (a * copies * N * C + _saved_attention(config, batch_size, a)),
        mlp=L * a * (mlp_copies * N * C + inner),
        dropout=L * 2 * a * N * C if config.dropout_probability else 0,
        output=a * N * C + _FLOAT32 * N * config.vocab_size + _INT64 * N,
        weight_copies=a * matrices if precision == "bfloat16" else 0,
    )


def _saved_norm(config: ModelConfig, n_tokens: int) -> int:
    """Return the values that one norm over d_model keeps."""
    width = config.d_model
    if config.norm == "rms_norm":
        return n_tokens * (2 * width + 1)
    return n_tokens * (3 * width + 1 if config.backend == "explicit" else width + 2)


def _saved_qk_norm(config: ModelConfig, n_tokens: int, a: int) -> int:
    """Return the bytes that the norms on one layer's queries and keys keep."""
    if not config.qk_norm:
        return 0
    width, heads = config.d_model + kv_width(config), config.n_heads + config.kv_heads
    if config.norm == "rms_norm":
        values = 2 * width + heads
    else:
        values = 3 * width + heads if config.backend == "explicit" else width + 2 * heads
    return n_tokens * values * (a if config.backend == "explicit" else _FLOAT32)


def _saved_attention(config: ModelConfig, batch_size: int, a: int) -> int:
    """Return the bytes that one layer keeps from queries to the output projection."""
    T, H = config.context_length, config.n_heads
    stream = batch_size * T * config.d_model  # N C
    weights = batch_size * H * T * T
    if config.backend == "fused" and config.dropout_probability and a == _FLOAT32:
        half = -(-T // 2)
        kept = batch_size * H * (half * half + (T - half) * T)
        return 5 * a * stream + _FLOAT32 * kept + weights  # a byte for each mask bit
    if config.backend == "explicit" or config.dropout_probability:
        in_both = a != _FLOAT32 and not config.dropout_probability
        softmax = weights * (_FLOAT32 + (a if in_both else 0))
        dropped = 2 * a * weights if config.dropout_probability else 0
        return 4 * a * stream + T * T + softmax + dropped
    return 4 * a * stream + _FLOAT32 * batch_size * T * H


def _saved_inner(config: ModelConfig) -> int:
    """Return how many `(N, F)` tensors the MLP keeps."""
    if config.backend == "explicit" and config.activation in ("gelu", "gelu_tanh"):
        return 4 if config.activation == "gelu" else 5
    return {"relu": 1, "swiglu": 4}.get(config.activation, 2)


def measure_saved_bytes(forward: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """Return the bytes that running `forward` keeps for backward.

    Args:
        forward: computes a loss; called once.
        parameters: tensors whose memory is not counted: parameters and buffers.

    Returns:
        Bytes of the distinct storages that autograd saved; a view counts with the whole
        storage that it keeps alive, two views of one storage once.
    """
    import torch

    counted_elsewhere = {tensor.untyped_storage().data_ptr() for tensor in parameters}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # an address may be used again once its tensor has died

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(tensor)
        if storage.data_ptr() not in counted_elsewhere:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(sizes.values())
