"""`--parts`, which several commands take: a model of parts that somebody wrote.

Python in a run's folder never runs by itself: only `--parts` runs files, those of the place
that it names. A run that had parts of its own is read by the reference's otherwise, which
have the same names of parameters, and the user is told.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from tiny_transformer.cli.quantizing import build_quantized
from tiny_transformer.config import ModelConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import CheckpointError, ConfigError
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.training.checkpoint import Checkpoint
from tiny_transformer.training.written_parts import (
    FOLDER,
    WrittenParts,
    changed_parts,
    describe_parts,
    name_parts,
    part_names,
)


def load_parts(
    source: str | None, config: ModelConfig, recorded: Any = None
) -> WrittenParts | None:
    """Run the files of `source`, and return the parts in them; None for None.

    Args:
        source: a folder or a Python file.
        config: of the model that they are for.
        recorded: parts that a run had, as `describe_parts` gives them: others are not taken.

    Raises:
        CourseError: no part is there, or a file cannot be imported.
    """
    if source is None:
        return None
    from tiny_transformer.course.graft import require_some, workspace_parts

    parts = workspace_parts(source, config, part_names(recorded) or None)
    require_some(parts, source)
    tell_taken(parts)
    return parts


def tell_taken(parts: WrittenParts) -> None:
    """Say on standard error which parts are somebody's own, and what was not taken."""
    _tell(f"parts of your own: {name_parts(describe_parts(parts))}; the others are the reference's")
    for note in parts.notes:
        _tell(f"not taken: {note}")


def build_with_parts(
    folder: RunFolder,
    checkpoint: Checkpoint,
    source: str | None,
    device: torch.device,
    quantize: str | None = None,
) -> Transformer:
    """Return the model of a checkpoint, of the parts in `source`, or of the reference's.

    Raises:
        CheckpointError: the weights are not those of such parts.
        ConfigError: both parts and a quantisation are asked for.
    """
    if source is None:
        tell_own_parts(folder, checkpoint)
        try:
            return build_quantized(checkpoint, device, quantize)
        except CheckpointError as error:
            recorded = name_parts(checkpoint.metadata.get("parts"))
            if not recorded:
                raise
            raise CheckpointError(
                f"{error} It was trained with parts of its own: {recorded}. Give them: --parts "
                f"{folder.path / FOLDER}"
            ) from None
    refuse_both(source, quantize)
    recorded = checkpoint.metadata.get("parts")
    parts = load_parts(source, checkpoint.config.model, recorded)
    changes = changed_parts(recorded, describe_parts(parts))
    if changes:
        _tell(f"since the run was trained: {'; '.join(changes)}")
    return checkpoint.build_model(parts, device=device)


def refuse_both(source: str | None, quantize: str | None) -> None:
    """Raise `ConfigError` where parts and a quantisation are asked for."""
    if source is not None and quantize is not None:
        raise ConfigError("--quantize knows the reference's parts alone; leave out --parts or it.")


def tell_compared(parts: WrittenParts, config: ModelConfig, source: str) -> None:
    """Say on standard error how each part compares with the reference."""
    from tiny_transformer.course.divergence import compare_each

    for comparison in compare_each(parts, config):
        _tell(comparison.sentence())
        if not comparison.same:
            _tell(f"  It is trained as it is. To see where: tiny course compare --folder {source}")


def tell_own_parts(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Say so where the reference's parts read the weights of a run that had its own."""
    recorded = name_parts(checkpoint.metadata.get("parts"))
    if recorded:
        _tell(
            f"the run was trained with parts of its own: {recorded}. The reference's parts read "
            f"its weights here. Its own, where --parts is taken: --parts {folder.path / FOLDER}, "
            "which runs the Python files in that folder"
        )


def _tell(text: str) -> None:
    print(f"{text}.".replace("..", "."), file=sys.stderr)
