"""One new token for every sequence, in as few operations as it takes.

What `Transformer.forward` computes with a cache, to rounding. Notable: sequences of unequal
length end at the same place in the cache, so that their next tokens lie side by side; a
token's vectors are `(B, C)`, without an axis of one; queries, keys and values come from one
product; one sequence is multiplied as a vector and many as columns, for which the matrix
library is twice as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_transformer.model.attention import MultiHeadAttention
from tiny_transformer.model.dropout import Dropout
from tiny_transformer.model.kv_cache import KVCache, LayerCache, check_fits
from tiny_transformer.model.layer_norm import LayerNorm, RMSNorm
from tiny_transformer.model.mlp import MLP
from tiny_transformer.model.positional import RotaryTable, apply_rotary
from tiny_transformer.model.quantized import Int8Linear
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.model.transformer_block import TransformerBlock
from tiny_transformer.model.unequal import Unequal

_COLUMNS_FROM = 12  # sequences; below, products with rows are the faster ones
_FUSED_UP_TO = 8  # query heads of all sequences; above, two plain products are faster

_REFERENCE = {
    *(TransformerBlock, MultiHeadAttention, MLP, LayerNorm, RMSNorm, RotaryTable),
    *(Dropout, nn.Linear, Int8Linear),
}
Function = Callable[[Tensor], Tensor]


class Decoder:
    """Continues sequences with a model whose attention can cache, token by token.

    Args:
        model: in evaluation mode, of any parts; where a module is not the reference's, or is
            watched by a PyTorch hook, a step is the model's own forward pass. The weights are
            read when the decoder is built, and int8 ones turned to floats once: a training step
            between two tokens would go unnoticed in part.
        batch_size: sequences side by side.

    Attributes:
        cache: keys and values so far; all sequences end at the same place in it.
        takes_unequal: whether sequences may differ in length; not with the forward pass.
    """

    def __init__(self, model: Transformer, batch_size: int) -> None:
        weight = model.lm_head.weight
        self.cache = KVCache(model.config, batch_size, dtype=weight.dtype, device=weight.device)
        self._model = model
        self._layers = []
        if _is_reference(model):
            self._layers = [_Layer(block, batch_size) for block in model.blocks]  # pyright: ignore[reportArgumentType]
        self.takes_unequal = bool(self._layers)
        self._norm = _norm(model.final_norm)
        self._head = _linear(weight, None, batch_size)
        self._unequal: Unequal | None = None

    def start(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Forget what was, read `ids`, and return the logits after them."""
        self._unequal = None
        self.cache.clear()
        return self._model(ids, self.cache, last_only=True)[:, -1]

    def start_unequal(self, sequences: Sequence[Int[Tensor, " T"]]) -> Float[Tensor, "B V"]:
        """Do what `start` does, for sequences of any lengths.

        Args:
            sequences: one for each row, of 1 to `context_length` ids.
        """
        if len({len(ids) for ids in sequences}) == 1:
            return self.start(torch.stack(list(sequences)))
        self.cache.clear()
        self._unequal = Unequal(self._model, self.cache, len(sequences))
        return self._unequal.read(dict(enumerate(sequences)))

    def replace(self, sequences: Mapping[int, Int[Tensor, " T"]]) -> None:
        """Let other sequences take the place of those in some rows.

        Args:
            sequences: by row, of 1 to `context_length - 1` ids.
        """
        if self._unequal is None:
            self._unequal = Unequal(self._model, self.cache, self.cache.keys.shape[1])
        self._unequal.read(sequences)

    def step(self, ids: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Return the logits after one token of each sequence, appended to the cache.

        Raises:
            PromptError: the cache is full.
        """
        column = ids[:, None]  # (B, 1)
        if not self._layers:
            return self._model(column, self.cache, last_only=True)[:, -1]
        length = self.cache.length
        check_fits(length, 1, self.cache.capacity)
        where: Tensor | slice = slice(length, length + 1)
        mask = None
        if self._unequal is None:
            x = self._model.embed(column, self.cache)[:, 0]  # (B, C)
        else:
            x, where, mask = self._unequal.embed(column)
        for index, layer in enumerate(self._layers):
            x = layer(x, self.cache.layer(index), where, mask)
        self.cache.advance(column)
        return self._head(self._norm(x))


class _Layer:
    """A block, for one token of each sequence: `(B, C) -> (B, C)`."""

    def __init__(self, block: TransformerBlock, batch_size: int) -> None:
        attention, mlp = block.attention, block.mlp
        assert isinstance(attention, MultiHeadAttention) and isinstance(mlp, MLP)
        self._norm1, self._norm2 = _norm(block.norm1), _norm(block.norm2)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        biases: list[Tensor] = [p.bias for p in projections if p.bias is not None]
        self._qkv = _linear(
            torch.cat(tuple(p.weight for p in projections)),
            torch.cat(biases) if biases else None,
            batch_size,
        )
        self._o = _linear(attention.o_proj.weight, attention.o_proj.bias, batch_size)
        self._up = _linear(mlp.up_proj.weight, mlp.up_proj.bias, batch_size)
        self._down = _linear(mlp.down_proj.weight, mlp.down_proj.bias, batch_size)
        gate = mlp.gate_proj
        self._gate = None if gate is None else _linear(gate.weight, gate.bias, batch_size)
        self._activation = mlp.activation
        self._rotary, self._q_norm, self._k_norm = (
            attention.rotary,
            attention.q_norm,
            attention.k_norm,
        )
        self._head_dim = attention.head_dim
        self._kv_heads = attention.k_proj.out_features // attention.head_dim
        self._heads = attention.q_proj.out_features // attention.head_dim

    def __call__(
        self, x: Tensor, cache: LayerCache, where: Tensor | slice, mask: Tensor | None
    ) -> Tensor:
        x = x + self._o(self._attend(self._qkv(self._norm1(x)), cache, where, mask))
        y = self._norm2(x)
        inner = self._up(y)
        if self._gate is None:
            inner = self._activation(inner)
        else:
            inner = self._activation(self._gate(y)) * inner
        return x + self._down(inner)

    def _attend(
        self,
        qkv: Float[Tensor, "B width"],
        cache: LayerCache,
        where: Tensor | slice,
        mask: Tensor | None,
    ) -> Float[Tensor, "B C"]:
        """Attend from tokens at the positions `where`; `mask` is added to the scores."""
        heads, kv_heads = self._heads, self._kv_heads
        turned = qkv.reshape(qkv.shape[0], heads + 2 * kv_heads, self._head_dim)  # (B, H*, D)
        q, k, v = turned.split((heads, kv_heads, kv_heads), dim=1)
        if self._q_norm is not None and self._k_norm is not None:
            q, k = self._q_norm(q), self._k_norm(k)
        if self._rotary is not None:
            cos, sin = self._rotary.cos[where], self._rotary.sin[where]  # (1 or B, 1, D / 2)
            q, k = apply_rotary(torch.cat((q, k), dim=1), cos, sin).split((heads, kv_heads), dim=1)
        keys, values = cache.extend(k[:, :, None], v[:, :, None])  # (B, H_kv, T, D)
        if q.shape[0] * heads <= _FUSED_UP_TO and heads == kv_heads:
            return F.scaled_dot_product_attention(q[:, :, None], keys, values, mask).flatten(1)
        q = q.unflatten(1, (kv_heads, -1)) * (1 / math.sqrt(self._head_dim))  # (B, H_kv, G, D)
        scores = q @ keys.mT  # (B, H_kv, G, T)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        return (weights @ values).flatten(1)


def _linear(weight: Tensor, bias: Tensor | None, batch_size: int) -> Function:
    """Return `x -> x weight^T + bias`, for `batch_size` rows, as what is fastest."""
    on_cpu = weight.device.type == "cpu"
    if on_cpu and batch_size == 1:
        if bias is None:
            return lambda x: torch.mv(weight, x[0])[None]
        return lambda x: torch.addmv(bias, weight, x[0])[None]
    if not on_cpu or batch_size < _COLUMNS_FROM:
        return lambda x: F.linear(x, weight, bias)
    if bias is None:
        return lambda x: torch.mm(weight, x.mT.contiguous()).mT
    column = bias[:, None]
    return lambda x: torch.addmm(column, weight, x.mT.contiguous()).mT


def _norm(norm: nn.Module) -> Function:
    """Return the norm as a function of rows in order."""
    if isinstance(norm, LayerNorm) and not norm.explicit:
        shape, weight, bias, eps = norm.weight.shape, norm.weight, norm.bias, norm.eps
        return lambda x: torch.layer_norm(x.contiguous(), shape, weight, bias, eps)
    return lambda x: norm(x.contiguous())


def _is_reference(model: Transformer) -> bool:
    """Return whether every module is the reference's own, and no one watches any."""
    modules = [model.final_norm, model.lm_head, *(m for b in model.blocks for m in b.modules())]
    watched = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return not watched and all(type(module) in _REFERENCE for module in modules)
