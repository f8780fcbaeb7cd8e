"""A program of `torch.export` (.pt2): the model as a graph that PyTorch loads without our code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import ExportError, Format, Logits, Subject, write_settings
from tiny_transformer.interop.traceable import WholeSequence
from tiny_transformer.model.quantized import quantize_int8
from tiny_transformer.runtime import files

PROGRAM = "model.pt2"
_BATCH, _LENGTH = 2, 3  # of the example that is traced; a size of one would be taken as fixed


def any_size(config: ModelConfig) -> tuple[torch.Tensor, dict[int, Any]]:
    """Return example ids `(B, T)`, and which of their sizes may be any."""
    sizes: dict[int, Any] = {0: Dim("batch", min=1)}
    if config.context_length >= _LENGTH:
        sizes[1] = Dim("length", min=1, max=config.context_length)
    return torch.zeros(_BATCH, min(_LENGTH, config.context_length), dtype=torch.int64), sizes


def check_context(config: ModelConfig) -> None:
    """Refuse the one context of which `torch.export` cannot leave the length free.

    It takes lengths of zero and one for special cases, and of two alone sees no variable.

    Raises:
        ExportError: the context is two tokens long.
    """
    if config.context_length == _LENGTH - 1:
        raise ExportError(
            f"model.context_length is {config.context_length}, for which PyTorch cannot trace a "
            "graph of any length. Formats that carry it: safetensors, torchscript."
        )


def _write(subject: Subject, folder: Path) -> None:
    check_context(subject.model.config)
    example, sizes = any_size(subject.model.config)
    with torch.no_grad():
        program = torch.export.export(
            WholeSequence(subject.model), (example,), dynamic_shapes={"ids": sizes}
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where on this machine its code lies
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    files.write_bytes(folder / PROGRAM, buffer.getbuffer())
    write_settings(subject, folder)


def _read(folder: Path) -> Mapping[str, Logits]:
    program = torch.export.load(io.BytesIO((folder / PROGRAM).read_bytes()))
    return {PROGRAM: program.module()}


FORMAT = Format("torch-export", _write, _read, quantize=quantize_int8)
