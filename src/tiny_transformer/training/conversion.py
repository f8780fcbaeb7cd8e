"""A checkpoint in another layout: whole, or sharded. The numbers are the same, bit for bit."""

from __future__ import annotations

from pathlib import Path

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.training import checkpoint_files as layout
from tiny_transformer.training.checkpoint import (
    load_checkpoint,
    write_metadata,
    write_tensors,
)
from tiny_transformer.training.sharded_weights import write_in_files

_MADE = ("format", "version", "files", "sha256")  # entries that the new layout has of its own


def convert_checkpoint(path: Path, n_files: int | None) -> None:
    """Put a checkpoint into another layout, in its place: at every moment one of both is whole.

    Args:
        path: its folder.
        n_files: over which weights, and optimizer state, are spread; None makes it whole.

    Raises:
        CheckpointError: it is damaged, or has that layout already.
        StorageError: the disk is full or the folder cannot be written; the old one stays.
    """
    checkpoint = load_checkpoint(path)
    sharded = checkpoint.metadata["version"] == layout.SHARDED_VERSION
    if n_files is None and not sharded:
        raise CheckpointError(f"The checkpoint {path} is whole already; nothing was changed.")
    tensors = {
        layout.MODEL: checkpoint.weights,
        layout.OPTIMIZER: checkpoint.optimizer_state,
    }
    record = {name: value for name, value in checkpoint.metadata.items() if name not in _MADE}
    with files.staged_directory(path) as folder:
        for name in layout.ALWAYS:
            files.write_bytes(folder / name, (path / name).read_bytes())
        for part, named in tensors.items():
            if n_files is None:
                write_tensors(folder / f"{part}.safetensors", named)
            else:
                write_in_files(folder / part, named, n_files)
        write_metadata(folder, record, sharded=n_files is not None)
