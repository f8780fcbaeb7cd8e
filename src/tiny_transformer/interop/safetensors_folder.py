"""Weights as safetensors, with the architecture and the vocabulary as JSON.

model.safetensors   the parameters by name, a shared one once
config.json         every setting of the architecture; "quantization": "int8" if it is quantised
vocab.json          the vocabulary

A quantised weight is two tensors: NAME_int8, int8 (out, in), and NAME_scale, float32 (out, 1), a
scale for each output channel. The weight is their product.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tiny_transformer.interop.base import (
    CONFIG,
    ExportError,
    Format,
    Logits,
    Subject,
    read_architecture,
    write_settings,
)
from tiny_transformer.model.quantized import (
    INT8,
    SCALE,
    Rounded,
    quantize_int8,
    replace_weights,
)
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.training.weights import load_weights, named_weights
from tiny_transformer.viz.parameters import count_parameters

WEIGHTS = "model.safetensors"


def load_safetensors(folder: str | Path) -> Transformer:
    """Return the model that was exported to `folder`, in evaluation mode.

    Weights that are int8 in the file are int8 in the model; torchao is not needed for it.
    `load_tokenizer(folder / "vocab.json")` returns its vocabulary.

    Raises:
        ConfigError: `config.json` cannot be read, or holds what no architecture has.
        ExportError: the weights cannot be read, or are not those of the config.
        CheckpointError: a weight is missing, surplus or has another shape.
    """
    folder = Path(folder)
    config = read_architecture(folder / CONFIG)
    file = folder / WEIGHTS
    try:
        weights = safetensors.torch.load(file.read_bytes())
    except OSError as error:
        raise ExportError(f"The file {file} cannot be read: {error.strerror}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"The file {file} is damaged: {error}.") from None
    wanted = count_parameters(config).total
    scales = {name + SCALE for name in (_bare(name) for name in weights) if name}
    found = sum(tensor.numel() for name, tensor in weights.items() if name not in scales)
    if wanted != found:  # before a model of that size is built
        raise ExportError(
            f"{file} does not fit {CONFIG}, which asks for {wanted:,} parameters: it has {found:,}."
        )
    model = Transformer(config)
    if scales:
        model = replace_weights(model, lambda name, like: _quantized(weights, name, like, file))
    load_weights(model, weights, where=str(file))
    return model.eval()


def _bare(name: str) -> str:
    """Return the name of the weight that `name` holds as int8; empty for another."""
    return name.removesuffix(INT8) if name.endswith(f"weight{INT8}") else ""


def _quantized(
    weights: Mapping[str, Tensor], name: str, like: Tensor, file: Path
) -> Rounded | None:
    """Return a weight's integers and scales, if the file has them in place of its floats."""
    if name + INT8 not in weights:
        return None
    int8, scale = weights[name + INT8], weights.get(name + SCALE)
    if scale is None:
        raise ExportError(f"{file} is damaged: it has {name + INT8} and no {name + SCALE}.")
    rows = scale.shape[0] == like.shape[0] and scale.ndim == 2
    whole = rows and scale.shape[1] > 0 and like.shape[1] % scale.shape[1] == 0
    if int8.dtype != torch.int8 or int8.shape != like.shape or not whole:
        raise ExportError(
            f"{file} is damaged: {name + INT8} should be int8 of shape {tuple(like.shape)} with a "
            f"scale for each row; it is {int8.dtype} of shape {tuple(int8.shape)} with scales of "
            f"shape {tuple(scale.shape)}."
        )
    if not scale.is_floating_point() or not (scale.isfinite() & (scale >= 0)).all():
        raise ExportError(f"{file} is damaged: {name + SCALE} is not of numbers from zero on.")
    return int8, scale


def _write(subject: Subject, folder: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in named_weights(subject.model).items()}
    files.write_bytes(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    write_settings(subject, folder)


def _read(folder: Path) -> Mapping[str, Logits]:
    return {WEIGHTS: load_safetensors(folder)}


FORMAT = Format("safetensors", _write, _read, tolerance=0.0, quantize=quantize_int8)
