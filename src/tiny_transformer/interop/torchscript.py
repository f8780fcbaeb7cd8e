"""TorchScript, by tracing: for programs that still load it; PyTorch has deprecated it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from tiny_transformer.interop.base import Format, Logits, Subject, write_settings
from tiny_transformer.interop.torch_export import any_size
from tiny_transformer.interop.traceable import WholeSequence
from tiny_transformer.model.quantized import quantize_int8
from tiny_transformer.runtime import files

SCRIPT = "model.ts"


def _write(subject: Subject, folder: Path) -> None:
    example, _ = any_size(subject.model.config)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # It is deprecated, which the format's note says; and each check of a size is
        # reported as a constant, which the parity gate tries with other sizes.
        warnings.simplefilter("ignore")
        with torch.no_grad():
            script = torch.jit.trace(WholeSequence(subject.model), example, check_trace=False)
        torch.jit.save(script, buffer)
    files.write_bytes(folder / SCRIPT, buffer.getbuffer())
    write_settings(subject, folder)


def _read(folder: Path) -> Mapping[str, Logits]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return {SCRIPT: torch.jit.load(io.BytesIO((folder / SCRIPT).read_bytes()))}


FORMAT = Format(
    "torchscript",
    _write,
    _read,
    quantize=quantize_int8,
    notes=("PyTorch has deprecated TorchScript; where you can choose, take torch-export.",),
)
