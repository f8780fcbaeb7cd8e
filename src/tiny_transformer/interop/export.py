"""The way out: refuse what cannot leave, write aside, compare, and only then put in place."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tiny_transformer.interop.base import ExportError, Subject
from tiny_transformer.interop.formats import check_carried, check_quantized, find_format
from tiny_transformer.interop.parity import Parity, check_parity
from tiny_transformer.model.quantized import is_quantized
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.training.weights import weights_hash

RECORD = "export.json"


def export_model(
    model: Transformer,
    tokenizer: Tokenizer,
    format_name: str,
    out: str | Path,
    *,
    name: str = "tiny-transformer",
    about: Mapping[str, Any] | None = None,
) -> Parity:
    """Write `model` as a folder in another format, if what was written computes the same.

    The folder is made beside `out` and renamed into place once it has been read back and its
    logits compared with the model's. `export.json` in it says what it was made from, and how
    far the two were apart.

    Args:
        model: any model; a float32 copy of it is exported, from the CPU. One that
            `quantized_for` made keeps its int8 weights.
        tokenizer: its vocabulary.
        format_name: one of `FORMATS`.
        out: the folder to make.
        name: what the files call the model.
        about: JSON-ready values that `export.json` is to hold as well.

    Returns:
        The largest difference that was found, over all files.

    Raises:
        ExportError: the format is unknown or cannot carry the model, a package is missing,
            `out` exists, or the written model disagrees; nothing is left behind.
        StorageError: the folder cannot be written.
    """
    chosen, out = find_format(format_name), Path(out)
    check_free(out)
    check_carried(model.config, chosen)
    if is_quantized(model):
        check_quantized(chosen)
    chosen.require_packages()
    ours = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    with files.staged_directory(out) as folder:
        chosen.write(Subject(ours, tokenizer, name), folder)
        found = [
            check_parity(ours, theirs, allowed=chosen.tolerance, what=file)
            for file, theirs in chosen.read(folder).items()
        ]
        parity = Parity(
            max(one.largest_difference for one in found),
            chosen.tolerance,
            sum(one.logits for one in found),
        )
        record = {"format": chosen.name, "model": name, "weights": weights_hash(ours)}
        record |= about or {}
        files.write_json(folder / RECORD, {**record, "parity": dataclasses.asdict(parity)})
    return parity


def check_free(out: Path) -> None:
    """Raise `ExportError` if something is there already."""
    if out.exists() or out.is_symlink():
        raise ExportError(f"{out} exists already. Remove it, or choose another place with --out.")
