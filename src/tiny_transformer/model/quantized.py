"""Weights as int8 numbers with a scale: `weight = weight_int8 * weight_scale`.

Notable: what multiplies is still float, so logits are those of a float model with the rounded
weights. torchao rounds; the modules here hold the result as plain tensors, and need torchao no
more. A table that the embedding shares with the output head stays one table, of int8.
"""

from __future__ import annotations

import copy
import importlib.util
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch.nn.functional as F
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn

from tiny_transformer.model.embeddings import TokenEmbedding
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, suggest
from tiny_transformer.runtime.quiet import quiet

INSTALL = "pip install 'tiny-transformer[quantize]'"
INT8, SCALE = "_int8", "_scale"
"""What a weight's name ends with, once it is two tensors."""

Rounded = tuple[Int8[Tensor, "N K"], Float[Tensor, "N G"]]
"""Integers, and the scale of each of the G equal groups of a row."""


def dequantize(int8: Int8[Tensor, "*N K"], scale: Float[Tensor, "*N G"]) -> Float[Tensor, "*N K"]:
    """Return the floats that the integers stand for: each times the scale of its group."""
    groups = int8.unflatten(-1, (scale.shape[-1], -1)).to(scale.dtype)  # (*N, G, K / G)
    return (groups * scale[..., None]).flatten(-2)


class _Quantized(nn.Module):
    """Holds a weight as int8, under the name of the module that held it as floats.

    Parameters: `weight_int8` `(N, K)` and `weight_scale` `(N, G)`; neither is trained.
    """

    def __init__(self, int8: nn.Parameter, scale: nn.Parameter) -> None:
        super().__init__()
        self.weight_int8, self.weight_scale = int8, scale

    @property
    def weight(self) -> Float[Tensor, "N K"]:
        """The floats, computed each time that they are asked for."""
        return dequantize(self.weight_int8, self.weight_scale)


class Int8Linear(_Quantized):
    """`nn.Linear` with an int8 weight; int8 is turned to floats for each product.

    With one scale a row it computes `(x @ int8.T) * scale + bias`, as torchao does.

    Args:
        linear: whose place it takes, and whose bias.
        int8: `(out_features, in_features)`.
        scale: `(out_features, G)`.
    """

    def __init__(self, linear: nn.Linear, int8: nn.Parameter, scale: nn.Parameter) -> None:
        super().__init__(int8, scale)
        self.out_features, self.in_features = int8.shape
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B N"]:
        """Multiply by the weight and add the bias."""
        if self.weight_scale.shape[1] > 1:
            return F.linear(x, self.weight.to(x.dtype), self.bias)
        y = F.linear(x, self.weight_int8.to(x.dtype))
        scaled = y * self.weight_scale.flatten()
        return (scaled if self.bias is None else scaled + self.bias).to(y.dtype)


class Int8TokenEmbedding(_Quantized):
    """`TokenEmbedding` with an int8 table, and a scale for each token or more."""

    def __init__(self, embedding: TokenEmbedding, int8: nn.Parameter, scale: nn.Parameter) -> None:
        super().__init__(int8, scale)
        self.scale = embedding.scale

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Look up the vector of each id."""
        rows, scales = F.embedding(ids, self.weight_int8), F.embedding(ids, self.weight_scale)
        vectors = dequantize(rows, scales)
        return vectors if self.scale == 1.0 else vectors * self.scale


_REPLACED = {nn.Linear: Int8Linear, TokenEmbedding: Int8TokenEmbedding}


def replace_weights(
    model: Transformer, round_weight: Callable[[str, Tensor], Rounded | None]
) -> Transformer:
    """Return a copy whose linear layers and token table hold int8.

    They are found by type, wherever they are in whichever parts, and keep their names. A weight
    that several of them share is one weight afterwards too; one that is shared with something
    else stays float, in all of them. Neither the model nor the global generator is changed.

    Args:
        model: any model of float weights, on any device.
        round_weight: takes a weight's name and its floats, `(N, K)` float32 on the CPU; None
            leaves the weight as it is.

    Raises:
        ConfigError: the model is quantised already, or nothing in it can be.
    """
    if is_quantized(model):
        raise ConfigError("The model is quantised already; its float weights are gone.")
    twin = copy.deepcopy(model).requires_grad_(False)
    modules = list(twin.modules())
    uses = Counter(id(p) for module in modules for p in module._parameters.values())
    ours = Counter(id(cast(Any, m).weight) for m in modules if type(m) in _REPLACED)
    rounded: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for name, weight in twin.named_parameters():
        if not ours[id(weight)] or ours[id(weight)] != uses[id(weight)]:
            continue
        found = round_weight(name, weight.detach().float().cpu())
        if found is not None:
            int8, scale = found[0].to(weight.device), found[1].to(weight)
            rounded[id(weight)] = (_fixed(int8), _fixed(scale))
    if not rounded:
        raise ConfigError(
            "Nothing in this model can be quantised: it has no nn.Linear or TokenEmbedding whose "
            "weight no other part uses."
        )
    made: dict[int, nn.Module] = {}  # a layer that is used in two places stays one layer
    for parent in modules:
        for name, child in list(parent._modules.items()):
            if child is None or type(child) not in _REPLACED:
                continue
            pair = rounded.get(id(cast(Any, child).weight))
            if pair is not None:
                if id(child) not in made:
                    build: Callable[..., nn.Module] = _REPLACED[type(child)]
                    made[id(child)] = build(child, *pair).train(child.training)
                setattr(parent, name, made[id(child)])
    return twin


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


def quantize_int8(model: Transformer) -> Transformer:
    """Return a copy with int8 weights, one scale for each output channel, by torchao.

    A channel's scale is its largest magnitude over 127.5, and each weight becomes the nearest
    of 256 multiples of it. Biases, norms and tables of positions stay float. Activations are
    float as well. The same weights give the same integers on every machine.

    Args:
        model: any model of float weights, on any device; it is rounded on the CPU.

    Raises:
        ConfigError: torchao is missing, a weight is not finite, or see `replace_weights`.

    Source: Dettmers et al. 2022, "LLM.int8()", section 2.1 (absmax, a scale for each row);
    torchao's `Int8WeightOnlyConfig`.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(
            f"Quantising needs torchao, which this Python does not have. Install it: {INSTALL}"
        )
    return replace_weights(model, checked(_by_torchao, largest_error=0.501))


def _by_torchao(weight: Float[Tensor, "N K"]) -> Rounded:
    if weight.shape[1] == 1:  # torchao would give rows of a single weight one scale together
        int8, scale = _by_torchao(F.pad(weight, (0, 1)))
        return int8[:, :1], scale
    with quiet():  # which kernels for other processors it could not load
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        holder = nn.Linear(*weight.shape[::-1], bias=False, device="meta")  # draws no numbers
        holder.weight = nn.Parameter(weight, requires_grad=False)
        quantize_(holder, Int8WeightOnlyConfig(set_inductor_config=False))
    found = cast(Any, holder.weight)
    return found.qdata, found.scale.reshape(len(weight), -1)


def checked(
    round_weight: Callable[[Tensor], Rounded], *, largest_error: float, floor: float = 0.0
) -> Callable[[str, Tensor], Rounded]:
    """Return a way to round that refuses what cannot be rounded, or was rounded wrongly.

    Args:
        round_weight: maps float32 `(N, K)` to integers and scales.
        largest_error: of a weight, as a part of its scale; a half, and what the scale's own
            rounding adds.
        floor: an error that is always allowed.
    """

    def rounding(name: str, weight: Tensor) -> Rounded:
        if not weight.isfinite().all():
            raise ConfigError(f"{name} has values that are not finite: they have no int8.")
        int8, scale = round_weight(weight)
        step = scale.float().repeat_interleave(weight.shape[1] // scale.shape[1], dim=1)
        error = (dequantize(int8, scale.float()) - weight).abs()
        if not (error <= step * largest_error + floor).all():
            raise ConfigError(
                f"{name} was rounded by {error.max().item():.2g}, more than half a step of its "
                "scale; it is not used. Is this another version of the package that rounds?"
            )
        return int8, scale

    return rounding


QUANTIZATIONS: dict[str, Callable[[Transformer], Transformer]] = {"int8": quantize_int8}


def find_quantization(name: str) -> Callable[[Transformer], Transformer]:
    """Return a way to quantise by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in QUANTIZATIONS:
        raise ConfigError(
            f"{name!r} is not a quantisation. {suggest(name, QUANTIZATIONS)} "
            f"There is: {', '.join(QUANTIZATIONS)}."
        )
    return QUANTIZATIONS[name]


def is_quantized(model: nn.Module) -> bool:
    """Return whether a part of `model` holds int8 weights."""
    return any(isinstance(module, _Quantized) for module in model.modules())


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes that the parameters take, shared ones once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
