"""Weights as safetensors, with the architecture and the vocabulary as JSON.

model.safetensors   the parameters by name, a shared one once
config.json         every setting of the architecture
vocab.json          the vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from tiny_transformer.interop.base import (
    CONFIG,
    ExportError,
    Format,
    Logits,
    Subject,
    read_architecture,
    write_settings,
)
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.training.weights import load_weights, named_weights
from tiny_transformer.viz.parameters import count_parameters

WEIGHTS = "model.safetensors"


def load_safetensors(folder: str | Path) -> Transformer:
    """Return the model that was exported to `folder`, in evaluation mode.

    `CharTokenizer.load(folder / "vocab.json")` returns its vocabulary.

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
    found = sum(tensor.numel() for tensor in weights.values())
    if wanted != found:  # before a model of that size is built
        raise ExportError(
            f"{file} does not fit {CONFIG}, which asks for {wanted:,} parameters: it has {found:,}."
        )
    model = Transformer(config)
    load_weights(model, weights, where=str(file))
    return model.eval()


def _write(subject: Subject, folder: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in named_weights(subject.model).items()}
    files.write_bytes(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    write_settings(subject, folder)


def _read(folder: Path) -> Mapping[str, Logits]:
    return {WEIGHTS: load_safetensors(folder)}


FORMAT = Format("safetensors", _write, _read, tolerance=0.0)
