"""Tensors of several ranks in one folder: each rank writes its share, in a file of its own.

Written and read by `torch.distributed.checkpoint` in its safetensors form, so that nothing
is pickled: a file's header says where in the whole tensors its pieces belong.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import CheckpointError, StorageError

_INDEX = "model.safetensors.index.json"  # of which tensor is where; the files say it themselves
SHARD_FILE = re.compile(r"(shard-\d{5}-)?model-\d{5}-of-\d{5}\.safetensors")


def write_shares(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors into a folder that every rank sees; each rank calls this.

    Args:
        folder: made if missing.
        tensors: the same names on every rank; of what is sharded each writes its share, and
            of what is not one rank writes all.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    _write(folder, tensors, save_distributed=True)


def write_in_files(folder: Path, tensors: Mapping[str, Tensor], n_files: int) -> None:
    """Write whole tensors into a folder, by one process, in files of about equal size.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    sizes = [0] * n_files
    index: dict[str, int] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].nbytes, item[0])):
        smallest = sizes.index(min(sizes))
        index[name] = smallest + 1
        sizes[smallest] += tensor.nbytes
    used = {old: new for new, old in enumerate(sorted(set(index.values())), 1)}
    index = {name: used[number] for name, number in index.items()}
    _write(folder, tensors, no_dist=True, fqn_to_index_mapping=index)
    files.discard(folder / _INDEX)


def _write(
    folder: Path, tensors: Mapping[str, Tensor], *, no_dist: bool = False, **options: Any
) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    files.make_directory(folder)
    if not tensors:
        return  # an optimizer that has made no step
    writer = HuggingFaceStorageWriter(str(folder), **options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this process writes alone
            save(dict(tensors), storage_writer=writer, no_dist=no_dist)
    except (CheckpointException, OSError) as error:
        raise StorageError(f"{folder} could not be written: {_cause(error)}.") from error
    files.sync_directory(folder)  # the writer syncs its files, and not their names


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a folder, whole, in this process.

    Raises:
        CheckpointError: a file is damaged, or a piece of a tensor is missing.
    """
    whole = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in list_of(folder)}
    read_into(folder, whole, no_dist=True)
    return whole


def list_of(folder: Path) -> list[tuple[str, tuple[torch.Size, torch.dtype]]]:
    """Return name, whole shape and dtype of every tensor in a folder.

    Raises:
        CheckpointError: a file is damaged, or a piece of a tensor is missing.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    with _explained(folder):
        described = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    found = []
    for name, entry in sorted(described.items()):
        assert isinstance(entry, TensorStorageMetadata)  # a safetensors file has nothing else
        if sum(math.prod(chunk.sizes) for chunk in entry.chunks) != math.prod(entry.size):
            raise CheckpointError(f"The folder {folder} is damaged: a piece of {name} is missing.")
        found.append((name, (entry.size, entry.properties.dtype)))
    return found


def read_into(folder: Path, tensors: Mapping[str, Tensor], *, no_dist: bool = False) -> None:
    """Fill tensors from a folder; a rank reads what it has of those that are sharded.

    Args:
        folder: of `write_shares` or `write_in_files`, of any number of ranks.
        tensors: by the names in the folder, of the same shapes.
        no_dist: this process reads alone; else every rank calls this.

    Raises:
        CheckpointError: a file is damaged, or a tensor is missing.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    if tensors:
        with _explained(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this process reads alone
            reader = HuggingFaceStorageReader(str(folder))
            load(dict(tensors), storage_reader=reader, no_dist=no_dist)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (CheckpointException, Exception) as error:  # the first is no Exception
        raise CheckpointError(f"The folder {folder} is damaged: {_cause(error)}.") from None


def _cause(error: BaseException) -> str:
    """Return in a line what went wrong on some rank."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
