"""`--quantize`, which several commands take."""

from __future__ import annotations

import sys

import torch

from tiny_transformer.evaluation.quantization import QuantizationCost
from tiny_transformer.model.quantized import find_quantization
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.training.checkpoint import Checkpoint


def check_quantize(name: str | None) -> None:
    """Raise `ConfigError` if no quantisation has this name; None is none at all."""
    if name is not None:
        find_quantization(name)


def build_quantized(
    checkpoint: Checkpoint, device: torch.device, name: str | None, *, told: bool = True
) -> Transformer:
    """Return the checkpoint's model on `device`, quantised if `name` is given.

    Args:
        checkpoint: has the weights.
        device: where the model will compute; it is rounded on the CPU.
        name: of the quantisation.
        told: write to stderr how many bytes the weights take.
    """
    if name is None:
        return checkpoint.build_model(device=device)
    model = checkpoint.build_model()
    quantized = find_quantization(name)(model)
    if told:
        print(*QuantizationCost.of(model, quantized).sentences(), file=sys.stderr)
    return quantized.to(device)
