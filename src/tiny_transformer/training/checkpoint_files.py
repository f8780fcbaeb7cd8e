"""The files of a checkpoint: their names, their fingerprints, and how each is read and verified.

model.safetensors       the weights, each shared one once        in a sharded one
optimizer.safetensors   "<parameter>/<key>"                      folders of these names
generators.safetensors  states of the global random generators
hooks.safetensors       tensors of the hooks' state
config.yaml  vocab.json
metadata.json           step, identity, size and SHA-256 of every file above, and its own
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.tracking.run_folder import METADATA
from tiny_transformer.training.sharded_weights import SHARD_FILE

FORMAT = "tiny_transformer.checkpoint"
VERSION = 2
SHARDED_VERSION = 3
MODEL, OPTIMIZER = "model", "optimizer"
GENERATORS, HOOKS = "generators.safetensors", "hooks.safetensors"
CONFIG, VOCABULARY = "config.yaml", "vocab.json"
ALWAYS = (GENERATORS, HOOKS, CONFIG, VOCABULARY)
WHOLE = (f"{MODEL}.safetensors", f"{OPTIMIZER}.safetensors")
_LARGEST_METADATA = 16 << 20  # bytes


def shard_files(path: Path) -> list[str]:
    """Return the names of the files with weights and optimizer state in a sharded checkpoint."""
    return sorted(
        f"{part}/{file.name}" for part in (MODEL, OPTIMIZER) for file in (path / part).iterdir()
    )


def fingerprint(file: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, which is read a piece at a time."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def describe_files(path: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the fingerprint of each file."""
    return {name: fingerprint(path / name) for name in names}


def seal(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a metadata record, its own entry `sha256` left out."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_metadata(path: Path) -> dict[str, Any]:
    """Read and check what a checkpoint says of itself.

    Raises:
        CheckpointError: it is not a checkpoint, or is damaged.
    """
    file = path / METADATA
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {path}.")
    if not file.is_file():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {METADATA}.")
    refuse_link(file)
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
    if metadata.get("version") not in (VERSION, SHARDED_VERSION):
        raise CheckpointError(
            f"The checkpoint file {file} has format version {metadata.get('version')}; this "
            f"release reads versions {VERSION} and {SHARDED_VERSION}."
        )
    if metadata.get("sha256") != seal(metadata):
        raise CheckpointError(
            f"The checkpoint file {file} is damaged: its content is not what was saved."
        )
    described, step = metadata.get("files"), metadata.get("step")
    sharded = metadata["version"] == SHARDED_VERSION
    needed = {*ALWAYS, *(() if sharded else WHOLE)}
    whole = isinstance(described, dict) and all(isinstance(described.get(n), dict) for n in needed)
    if not whole or type(step) is not int or step < 0:
        raise CheckpointError(f"The checkpoint file {file} is damaged: fields are missing.")
    surplus = sorted(n for n in described or () if n not in needed and not _is_shard(n, sharded))
    if surplus:
        raise CheckpointError(
            f"The checkpoint file {file} names {surplus[0]!r}, which no checkpoint has."
        )
    return metadata


def _is_shard(name: Any, sharded: bool) -> bool:
    part, _, file = str(name).partition("/")
    return sharded and part in (MODEL, OPTIMIZER) and SHARD_FILE.fullmatch(file) is not None


def read_verified(file: Path, expected: Mapping[str, Any]) -> bytes:
    """Return a file's bytes, which must be those that were saved.

    Raises:
        CheckpointError: it is missing, no regular file, or another one.
    """
    _check_size(file, expected)
    with _explained(file):
        data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
        raise _changed(file)
    return data


def verify(file: Path, expected: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless a file is as it was saved; it is not held in memory."""
    _check_size(file, expected)
    with _explained(file):
        found = fingerprint(file)
    if found["sha256"] != expected.get("sha256"):
        raise _changed(file)


def _changed(file: Path) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint file {file} is damaged: its content is not what was saved."
    )


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"The checkpoint file {file} is missing: {error.strerror}.") from None


def _check_size(file: Path, expected: Mapping[str, Any]) -> None:
    """Refuse a file of another size before it is read, and what is no file."""
    refuse_link(file)
    with _explained(file):
        size = file.stat().st_size
    if size != expected.get("bytes"):
        raise CheckpointError(
            f"The checkpoint file {file} is damaged: it has {size} bytes, and "
            f"was saved with {expected.get('bytes')}."
        )


def refuse_link(file: Path) -> None:
    """Refuse what no checkpoint has: a link to elsewhere, or a pipe that would never end."""
    if file.is_symlink() or (file.exists() and not file.is_file() and not file.is_dir()):
        raise CheckpointError(f"The checkpoint file {file} is damaged: it is no regular file.")


def way_out(path: Path) -> str:
    """Name the newest other checkpoint of the same run, if there is one."""

    def age(folder: Path) -> tuple[int, str]:
        return len(folder.name), folder.name  # the order of steps, also of nine digits

    others = [p for p in path.parent.glob("step-*") if (p / METADATA).is_file()]
    older = [p for p in others if age(p) < age(path)]
    return f" An older one is {max(older, key=age)}." if older else ""
