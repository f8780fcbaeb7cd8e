"""Checkpoints: a folder that holds all of a run's state, written whole or not at all.

    model.safetensors       the weights, each shared one once
    optimizer.safetensors   "<parameter>/<key>"
    generators.safetensors  states of the global random generators
    hooks.safetensors       tensors of the hooks' state
    config.yaml  vocab.json
    metadata.json           step, identity, size and SHA-256 of every file above, and its own

Nothing is ever unpickled: safetensors, YAML (safe loader) and JSON only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
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
from tiny_transformer.runtime.errors import CheckpointError, TinyError
from tiny_transformer.runtime.random_state import generator_states
from tiny_transformer.text.load import load_tokenizer
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.tracking.run_folder import METADATA, RunFolder, find_run
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.weights import load_weights, named_weights
from tiny_transformer.training.whole_model import build_model
from tiny_transformer.viz.parameters import count_parameters

FORMAT = "tiny_transformer.checkpoint"
VERSION = 2
_MODEL, _OPTIMIZER, _GENERATORS = (
    "model.safetensors",
    "optimizer.safetensors",
    "generators.safetensors",
)
_HOOKS, _CONFIG, _VOCABULARY = "hooks.safetensors", "config.yaml", "vocab.json"
_FILES = (_MODEL, _OPTIMIZER, _GENERATORS, _HOOKS, _CONFIG, _VOCABULARY)
_LARGEST_METADATA = 16 << 20  # bytes
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

    Raises:
        StorageError: the disk is full or the folder cannot be written; what stood at
            `path` before is unharmed.
    """
    path = Path(path)
    with files.staged_directory(path) as folder:
        for name, tensors in (
            (_MODEL, named_weights(model)),
            (_OPTIMIZER, optimizer.state_tensors()),
            (_GENERATORS, generator_states()),
            (_HOOKS, hook_state or {}),
        ):
            on_cpu = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
            files.write_bytes(folder / name, safetensors.torch.save(on_cpu))
        save_config(config, folder / _CONFIG)
        tokenizer.save(folder / _VOCABULARY)
        record = {
            **(metadata or {}),
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "files": {name: _fingerprint((folder / name).read_bytes()) for name in _FILES},
        }
        files.write_json(folder / METADATA, {**record, "sha256": seal(record)})
    return path


def seal(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a metadata record, its own entry `sha256` left out."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder, verifying every byte of it.

    Raises:
        CheckpointError: it is not a checkpoint, or a file of it is missing, truncated or
            changed; the message names the file and an older checkpoint, if there is one.
    """
    path = Path(path)
    try:
        metadata = _read_metadata(path)
        data = {name: _read_verified(path / name, metadata["files"][name]) for name in _FILES}
        return Checkpoint(
            path=path,
            step=metadata["step"],
            config=_config(path / _CONFIG, data[_CONFIG]),
            tokenizer=load_tokenizer(path / _VOCABULARY, data[_VOCABULARY]),
            weights=_tensors(path / _MODEL, data[_MODEL]),
            optimizer_state=_tensors(path / _OPTIMIZER, data[_OPTIMIZER]),
            generators=_tensors(path / _GENERATORS, data[_GENERATORS]),
            hook_state=_tensors(path / _HOOKS, data[_HOOKS]),
            metadata=metadata,
        )
    except TinyError as error:
        raise CheckpointError(f"{error}{_way_out(path)}") from None


def open_checkpoint(
    reference: str | Path, runs_dir: str | Path = "runs"
) -> tuple[RunFolder, Checkpoint]:
    """Find a run as `find_run` does, and read its checkpoint, also while it is being trained.

    Raises:
        RunError: nothing of that name is a run.
        CheckpointError: it has no checkpoint, or a damaged one.
    """
    while True:
        folder, path = find_run(reference, runs_dir)
        try:
            return folder, load_checkpoint(path)
        except CheckpointError:
            if path.is_dir():
                raise
            # Training has removed it since it was found, and has a newer one.


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {path}.")
    if not file.is_file():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {METADATA}.")
    _refuse_link(file)
    try:
        size = file.stat().st_size
        if size > _LARGEST_METADATA:
            raise CheckpointError(f"The checkpoint file {file} has {size} bytes: far too many.")
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"The file {file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"The checkpoint file {file} is damaged: it is not JSON.") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"{file} does not describe a checkpoint of this package.")
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"The checkpoint file {file} has format version {metadata.get('version')}; this "
            f"release reads version {VERSION}."
        )
    if metadata.get("sha256") != seal(metadata):
        raise CheckpointError(
            f"The checkpoint file {file} is damaged: its content is not what was saved."
        )
    described, step = metadata.get("files"), metadata.get("step")
    whole = isinstance(described, dict) and all(isinstance(described.get(n), dict) for n in _FILES)
    if not whole or type(step) is not int or step < 0:
        raise CheckpointError(f"The checkpoint file {file} is damaged: fields are missing.")
    surplus = sorted(set(described or ()) - set(_FILES))
    if surplus:
        raise CheckpointError(
            f"The checkpoint file {file} names {surplus[0]!r}, which no checkpoint has."
        )
    return metadata


def _read_verified(file: Path, expected: Mapping[str, Any]) -> bytes:
    _refuse_link(file)
    try:
        if file.stat().st_size != expected.get("bytes"):  # before it is read into memory
            raise CheckpointError(
                f"The checkpoint file {file} is damaged: it has {file.stat().st_size} bytes, and "
                f"was saved with {expected.get('bytes')}."
            )
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The checkpoint file {file} is missing: {error.strerror}.") from None
    if _fingerprint(data)["sha256"] != expected.get("sha256"):
        raise CheckpointError(
            f"The checkpoint file {file} is damaged: its content is not what was saved."
        )
    return data


def _refuse_link(file: Path) -> None:
    """Refuse what no checkpoint has: a link to elsewhere, or a pipe that would never end."""
    if file.is_symlink() or (file.exists() and not file.is_file() and not file.is_dir()):
        raise CheckpointError(f"The checkpoint file {file} is damaged: it is no regular file.")


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


def _way_out(path: Path) -> str:
    """Name the newest other checkpoint of the same run, if there is one."""

    def age(folder: Path) -> tuple[int, str]:
        return len(folder.name), folder.name  # the order of steps, also of nine digits

    others = [p for p in path.parent.glob("step-*") if (p / METADATA).is_file()]
    older = [p for p in others if age(p) < age(path)]
    return f" An older one is {max(older, key=age)}." if older else ""
