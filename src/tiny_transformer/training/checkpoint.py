"""Checkpoints: a folder that holds all of a run's state, written whole or not at all.

A whole checkpoint has the weights in one file and the optimizer's state in another; a sharded
one has folders in their place, to which each process wrote its share. Everything that reads
the one reads the other (`training.checkpoint_files` has the names).

Nothing is ever unpickled: safetensors, YAML (safe loader) and JSON only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn

from tiny_transformer.config import Config
from tiny_transformer.config.loading import config_from_dict, read_settings, save_config
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.runtime.distributed import Ranks
from tiny_transformer.runtime.errors import CheckpointError, TinyError
from tiny_transformer.runtime.random_state import generator_states
from tiny_transformer.text.load import load_tokenizer
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.tracking.run_folder import METADATA, RunFolder, find_run
from tiny_transformer.training import checkpoint_files as layout
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.sharded_weights import read_whole, write_shares
from tiny_transformer.training.weights import load_weights, named_weights
from tiny_transformer.training.whole_model import build_model
from tiny_transformer.viz.parameters import count_parameters

_LARGEST_TABLE = 1 << 31  # elements of a table of positions


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back and verified.

    Attributes:
        path: its folder.
        step: optimizer steps made.
        config: the run's settings.
        tokenizer: its vocabulary.
        weights: parameters by name.
        optimizer_state: see `Optimizer.state_tensors`.
        generators: see `generator_states`.
        hook_state: tensors of the hooks; the rest of their state is in `metadata`.
        metadata: what `save_checkpoint` was given to remember, and the files' hashes.
        left: whether weights and optimizer state are still in their shares.
    """

    path: Path
    step: int
    config: Config
    tokenizer: Tokenizer
    weights: dict[str, Tensor]
    optimizer_state: dict[str, Tensor]
    generators: dict[str, Tensor]
    hook_state: dict[str, Tensor]
    metadata: dict[str, Any]
    left: bool = False

    def build_model(
        self, parts: Parts | None = None, device: torch.device | str = "cpu"
    ) -> Transformer:
        """Return the model with these weights, in evaluation mode.

        Raises:
            CheckpointError: the weights are not those of the config.
        """
        if parts is None:
            self.check_size()
        model = build_model(self.config.model, parts)
        load_weights(model, self.weights, where=str(self.path))
        return model.to(device).eval()

    def check_size(self) -> None:
        """Refuse a config that asks for another model before that one is built."""
        config = self.config.model
        if config.context_length * config.d_model > _LARGEST_TABLE:
            raise CheckpointError(
                f"{self.path} asks for a context of {config.context_length:,}: far too long."
            )
        if self.left:
            return  # told tensor by tensor, when they are read
        wanted = count_parameters(config).total
        found = sum(tensor.numel() for tensor in self.weights.values())
        if wanted != found:
            raise CheckpointError(
                f"{self.path} does not fit this model: its config asks for {wanted:,} "
                f"parameters, and it has {found:,}."
            )


def save_checkpoint(
    path: str | Path,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    step: int,
    config: Config,
    tokenizer: Tokenizer,
    hook_state: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Write a checkpoint folder beside `path` and rename it into place.

    Args:
        path: the folder to appear; an older one there is replaced.
        model: whose weights are saved, with the optimizer that trains it.
        optimizer: its state is saved.
        step: optimizer steps made.
        config: the run's settings.
        tokenizer: its vocabulary.
        hook_state: tensors of the hooks.
        metadata: JSON-ready values to remember, such as the run's id.
        ranks: the processes that each write their share of a sharded model, and all call this;
            None writes the whole of it.

    Raises:
        StorageError: the disk is full or the folder cannot be written; what stood at
            `path` before is unharmed.
        CheckpointError: not all ranks see the folder.
    """
    path, sharded = Path(path), ranks is not None
    ranks = ranks or Ranks()
    with contextlib.ExitStack() as stack:
        folder = Path(
            ranks.from_first(lambda: str(stack.enter_context(files.staged_directory(path))))
        )
        tensors = {layout.MODEL: named_weights(model), layout.OPTIMIZER: optimizer.state_tensors()}
        if sharded:
            with ranks.together():
                _refuse_unseen(folder, ranks)
            for part, named in tensors.items():
                with ranks.together():
                    write_shares(folder / part, named)
        else:
            for part, named in tensors.items():
                write_tensors(folder / f"{part}.safetensors", named)
        with ranks.together():
            if ranks.first:
                write_tensors(folder / layout.GENERATORS, generator_states())
                write_tensors(folder / layout.HOOKS, hook_state or {})
                save_config(config, folder / layout.CONFIG)
                tokenizer.save(folder / layout.VOCABULARY)
                write_metadata(folder, {**(metadata or {}), "step": step}, sharded=sharded)
                stack.close()  # which puts the folder in place
    return path


def _refuse_unseen(folder: Path, ranks: Ranks) -> None:
    if not folder.is_dir():
        raise CheckpointError(
            f"Rank {ranks.rank} does not see {folder}, which rank 0 has just made: a sharded "
            "checkpoint needs a --runs-dir on storage that all machines share."
        )


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, whole or not at all."""
    on_cpu = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    files.write_bytes(file, safetensors.torch.save(on_cpu))


def write_metadata(folder: Path, record: Mapping[str, Any], *, sharded: bool) -> None:
    """Write last what a checkpoint says of itself, over files that are all there.

    Args:
        folder: the checkpoint's.
        record: `step`, and what is to be remembered.
        sharded: whether weights and optimizer state are in folders.
    """
    large = layout.shard_files(folder) if sharded else layout.WHOLE
    record = {
        **record,
        "format": layout.FORMAT,
        "version": layout.SHARDED_VERSION if sharded else layout.VERSION,
        "files": layout.describe_files(folder, [*large, *layout.ALWAYS]),
    }
    files.write_json(folder / METADATA, {**record, "sha256": layout.seal(record)})


def load_checkpoint(path: str | Path, ranks: Ranks | None = None) -> Checkpoint:
    """Read a checkpoint folder, verifying every byte of it.

    Args:
        path: the folder.
        ranks: the processes that are about to share it, and all call this: the shares of a
            sharded one are verified together, and left for `TrainingState.load` to read;
            None reads everything.

    Raises:
        CheckpointError: it is not a checkpoint, or a file of it is missing, truncated or
            changed; the message names the file and an older checkpoint, if there is one.
    """
    path = Path(path)
    try:
        metadata = layout.read_metadata(path)
        described = metadata["files"]
        small = {n: layout.read_verified(path / n, described[n]) for n in layout.ALWAYS}
        sharded = metadata["version"] == layout.SHARDED_VERSION
        if sharded:
            shards = sorted(name for name in described if "/" in name)
            for name in shards if ranks is None else shards[ranks.rank :: ranks.count]:
                layout.verify(path / name, described[name])
            large = [
                {} if ranks is not None else read_whole(path / part)
                for part in (layout.MODEL, layout.OPTIMIZER)
            ]
        else:
            large = [
                _tensors(path / name, layout.read_verified(path / name, described[name]))
                for name in layout.WHOLE
            ]
        return Checkpoint(
            path=path,
            step=metadata["step"],
            config=_config(path / layout.CONFIG, small[layout.CONFIG]),
            tokenizer=load_tokenizer(path / layout.VOCABULARY, small[layout.VOCABULARY]),
            weights=large[0],
            optimizer_state=large[1],
            generators=_tensors(path / layout.GENERATORS, small[layout.GENERATORS]),
            hook_state=_tensors(path / layout.HOOKS, small[layout.HOOKS]),
            metadata=metadata,
            left=sharded and ranks is not None,
        )
    except TinyError as error:
        raise CheckpointError(f"{error}{layout.way_out(path)}") from None


def open_checkpoint(
    reference: str | Path, runs_dir: str | Path = "runs", ranks: Ranks | None = None
) -> tuple[RunFolder, Checkpoint]:
    """Find a run as `find_run` does, and read its checkpoint, also while it is being trained.

    Raises:
        RunError: nothing of that name is a run.
        CheckpointError: it has no checkpoint, or a damaged one.
    """
    while True:
        folder, path = find_run(reference, runs_dir)
        try:
            return folder, load_checkpoint(path, ranks)
        except CheckpointError:
            if path.is_dir():
                raise
            # Training has removed it since it was found, and has a newer one.


def _config(file: Path, data: bytes) -> Config:
    _refuse_aliases(file, data)
    return config_from_dict(read_settings(file, data), where=str(file))


def _refuse_aliases(file: Path, data: bytes) -> None:
    """Refuse YAML that refers to itself: a few lines of that can stand for billions of values."""
    if b"*" not in data:
        return
    with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):  # told by who reads it
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data.decode())):
            raise CheckpointError(f"The checkpoint file {file} has YAML aliases: no saved one has.")


def _tensors(file: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The checkpoint file {file} is damaged: {error}.") from None
