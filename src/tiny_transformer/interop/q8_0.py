"""Q8_0, the int8 of llama.cpp: blocks of 32 weights with a scale of 16 bits each.

A block is 34 bytes: the scale `d` as float16, then 32 int8 numbers `q`; a weight is `d * q`.

Source: `block_q8_0` and `quantize_row_q8_0_ref` of ggml, through the `gguf` package.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tiny_transformer.interop.base import ExportError
from tiny_transformer.model.quantized import INT8, SCALE, Rounded, checked, replace_weights
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.training.weights import named_weights

BLOCK = 32  # weights
_SCALE_BYTES = 2
_LARGEST_ERROR = 0.501 + 127 / 2**11  # of a scale: a half, and 127 times the scale's rounding
_FLOOR = 127 * 2.0**-25  # and where the scale is the smallest of float16


def quantize_q8_0(model: Transformer) -> Transformer:
    """Return a copy with int8 weights, a scale for 32 neighbours of a row, as llama.cpp rounds.

    Raises:
        ExportError: a row is not made of whole blocks.
        ConfigError: see `replace_weights`.
    """
    config = model.config
    widths = {"d_model": config.d_model, "d_ff": config.feed_forward_width}
    wrong = [f"model.{name} is {width}" for name, width in widths.items() if width % BLOCK]
    if wrong:
        raise ExportError(
            f"GGUF keeps int8 as Q8_0, in blocks of {BLOCK} weights: {' and '.join(wrong)}, which "
            f"is not a multiple of {BLOCK}. Formats that carry int8 of any width: safetensors, "
            "torch-export, torchscript, onnx."
        )
    return replace_weights(model, checked(_by_gguf, largest_error=_LARGEST_ERROR, floor=_FLOOR))


def _by_gguf(weight: Float[Tensor, "N K"]) -> Rounded:
    import gguf

    with np.errstate(over="ignore"):  # a scale beyond float16 is found by who checks
        packed = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    blocks = packed.reshape(len(weight), -1, _SCALE_BYTES + BLOCK)
    scale = blocks[..., :_SCALE_BYTES].copy().view(np.float16)[..., 0]  # (N, K / 32)
    int8 = blocks[..., _SCALE_BYTES:].copy().view(np.int8).reshape(len(weight), -1)
    return torch.from_numpy(int8), torch.from_numpy(scale.astype(np.float32))


def packed_weights(model: Transformer) -> dict[str, Tensor]:
    """Return the parameters by name, shared ones once, int8 ones as the bytes of their blocks.

    Such a weight has the name that its floats had, and is uint8 `(N, K / 32 * 34)`: its rows can
    be moved and joined as those of the floats.

    Raises:
        ExportError: the model's int8 is not Q8_0.
    """
    weights = named_weights(model)
    found = {}
    for name, tensor in weights.items():
        if name.endswith(INT8):
            bare = name.removesuffix(INT8)
            found[bare] = _pack(bare, tensor, weights[bare + SCALE])
        elif name.removesuffix(SCALE) + INT8 not in weights:
            found[name] = tensor
    return found


def _pack(name: str, int8: Tensor, scale: Tensor) -> UInt8[Tensor, "N bytes"]:
    halves = scale.half()
    if scale.shape[1] * BLOCK != int8.shape[1] or not torch.equal(halves.float(), scale.float()):
        raise ExportError(
            f"GGUF keeps int8 as Q8_0, and {name} was rounded otherwise. Export the float model, "
            "quantised with quantize_q8_0 (the command: --quantize int8)."
        )
    blocks = int8.unflatten(1, (-1, BLOCK)).contiguous().view(torch.uint8)  # (N, K / 32, 32)
    return torch.cat([halves[..., None].view(torch.uint8), blocks], dim=2).flatten(1)
