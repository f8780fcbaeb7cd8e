"""What must hold for a run to be continued, and what may have changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tiny_transformer.config import Config
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.environment import changed_numerics
from tiny_transformer.runtime.errors import CheckpointError, ConfigError, TinyError
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_summary import IMPORTED
from tiny_transformer.training.checkpoint import Checkpoint
from tiny_transformer.training.written_parts import (
    FOLDER,
    changed_parts,
    describe_parts,
    name_parts,
)


def continued_config(
    checkpoint: Checkpoint,
    folder: RunFolder,
    *,
    max_steps: int | None,
    stop_at: int | None,
    strategy: Literal["ddp", "fsdp"] | None = None,
) -> Config:
    """Return the config of a run that goes on from a checkpoint.

    Args:
        checkpoint: where it goes on.
        folder: the run's.
        max_steps: a new horizon; None keeps the run's.
        stop_at: end early at this step.
        strategy: how several processes share the work; None keeps the run's way.

    Raises:
        CheckpointError: the run is complete or was imported, or it would run a Python file that
            came with it.
    """
    if checkpoint.metadata.get(IMPORTED):
        raise CheckpointError(
            f"The run {folder.path} was imported, and has nothing to resume. Fine-tune it in a run "
            f"of its own: tiny train --config {folder.path / 'config.yaml'} --init-from "
            f"{folder.path} --data.corpus my.txt"
        )
    config = checkpoint.config
    steps = config.training.max_steps if max_steps is None else max_steps
    training = dataclasses.replace(config.training, stop_at=stop_at, max_steps=steps)
    if checkpoint.step >= training.last_step:
        raise CheckpointError(
            f"The run {folder.path} is complete: it made {checkpoint.step} of "
            f"{training.last_step} steps. Train it longer with --training.max-steps "
            f"{2 * checkpoint.step}."
        )
    refuse_own_code(config, folder, CheckpointError)
    shared = dataclasses.replace(
        config.distributed, strategy=strategy or config.distributed.strategy
    )
    return dataclasses.replace(
        config, training=training, distributed=shared, runs_dir=str(folder.path.parent)
    )


def refuse_own_code(config: Config, folder: RunFolder, kind: type[TinyError]) -> None:
    """Raise `kind` if a hook's file came with the run: to look at a run is not to trust it."""
    for hook in config.hooks:
        file = Path(hook["name"].rpartition(":")[0])
        if file.suffix and file.resolve().is_relative_to(folder.path.resolve()):
            raise kind(
                f"The hook {hook['name']} lies inside the run's own folder: code that came with "
                "the run would be run here. Move the file out, if you trust it."
            )


def refuse_other_tokenizer(source: Checkpoint, tokenizer: Tokenizer, given: str) -> None:
    """Raise `ConfigError` if the weights of `source` know ids that mean other tokens."""
    both_characters = isinstance(tokenizer, CharTokenizer) and isinstance(
        source.tokenizer, CharTokenizer
    )
    if source.tokenizer != tokenizer and not both_characters:
        raise ConfigError(
            f"The weights of {given} go with another tokenizer: an id would mean another token. "
            f"Take theirs: --data.tokenizer {source.path / 'vocab.json'} --model.vocab-size "
            f"{source.config.model.vocab_size}."
        )


def refuse_other_parts(
    checkpoint: Checkpoint, folder: RunFolder, parts: Parts | None, *, allow: bool
) -> list[str]:
    """Return how the parts at hand are others than those that a checkpoint was made with.

    Raises:
        CheckpointError: they are others, and `allow` is false.
    """
    recorded = checkpoint.metadata.get("parts")
    changes = changed_parts(recorded, describe_parts(parts))
    if not changes or allow:
        return changes
    if parts is None:
        problem = f"has parts of its own: {name_parts(recorded)}"
        way_out = (
            f"Go on with them: --parts {folder.path / FOLDER} (which runs the Python files in "
            "it: look at them first if the run is not yours). Or go on with the reference's "
            "parts: --allow-parts-change."
        )
    else:
        problem = f"was trained with other parts: {'; '.join(changes)}"
        way_out = (
            f"Make it as it was (the run keeps a copy of its parts, if it had any, in "
            f"{folder.path / FOLDER}), or go on with --allow-parts-change."
        )
    raise CheckpointError(f"The run {folder.path} {problem}. {way_out}")


def refuse_changes(
    checkpoint: Checkpoint,
    numerics: dict[str, Any],
    hook_list: Sequence[dict[str, Any]],
    *,
    allow: bool,
) -> list[str]:
    """Return what the exact numbers depend on and has changed since a checkpoint was saved.

    Raises:
        CheckpointError: something has changed, and `allow` is false.
    """
    changes = changed_numerics(checkpoint.metadata.get("numerics", {}), numerics)
    saved = {h["name"]: h.get("sha256") for h in checkpoint.metadata.get("hook_list", [])}
    changes += [
        f"the file of the hook {hook['name']}"
        for hook in hook_list
        if hook.get("sha256") != saved.get(hook["name"])
    ]
    if changes and not allow:
        raise CheckpointError(
            f"What the run's numbers depend on has changed since {checkpoint.path} was saved: "
            f"{'; '.join(changes)}. Make it as it was (the number of threads is set by "
            "OMP_NUM_THREADS), or go on with --allow-numerics-change, where the last bits of the "
            "numbers may differ from now on."
        )
    return changes
