"""The safetensors of a Hugging Face folder as our weights: each is used, or refused by name.

    model.safetensors                  or
    model.safetensors.index.json       with the files that it names, in the same folder

Notable: names and shapes are compared before a value is read. A pickle is never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.interop.base import CONFIG, ImportRefusedError
from tiny_transformer.interop.foreign_fields import read_json, shown
from tiny_transformer.interop.forms import Form
from tiny_transformer.interop.weight_names import PREFIXES, Stored, layout
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.training.weights import named_weights
from tiny_transformer.viz.parameters import count_parameters

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_HEAD, _TABLE = "lm_head.weight", "embeddings.token.weight"
_READABLE = ("F32", "F16", "BF16", "F64")
# Constants that old files keep beside the weights.
_BUFFERS = re.compile(r".*\.attn\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_ELSEWHERE = {"*.gguf": "llama.cpp", "*.h5": "TensorFlow", "*.msgpack": "Flax", "*.onnx": "ONNX"}


@dataclass(frozen=True)
class _Found:
    """A tensor of a file, not read yet."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ForeignWeights:
    """Weights that were read.

    Attributes:
        weights: by our names, float32.
        hashes: SHA-256 (hex) of each file, by its name.
        dtypes: how they were stored, in the order of the names.
    """

    weights: dict[str, Tensor]
    hashes: dict[str, str]
    dtypes: tuple[str, ...]


def read_foreign_weights(folder: Path, form: Form, config: ModelConfig) -> ForeignWeights:
    """Read the weights of a folder.

    Args:
        folder: where they lie.
        form: how they are named and stored.
        config: the architecture that they are for, with its whole context.

    Raises:
        ImportRefusedError: there are none, a file is damaged or names one outside of the
            folder, or a tensor is missing, unexpected, misshapen, quantised or not finite.
    """
    paths = _weight_files(folder)
    found = _with_prefix(_headers(paths), PREFIXES[form.name])
    shapes = _shapes(folder, config, found)
    stored = layout(form, shapes)
    head = found.pop(_HEAD, None) if config.tie_weights else None
    _compare(folder, found, stored, shapes)
    weights: dict[str, Tensor] = {}
    with _opened(paths) as files:
        for theirs, kept in stored.items():
            weights.update(kept.unpack(_read(files, found[theirs]), shapes))
        if head is not None and not torch.equal(_read(files, head), weights[_TABLE]):
            raise ImportRefusedError(
                f"{head.file} has a {_HEAD} of its own, and {folder / CONFIG} says that it is the "
                "token embedding (tie_word_embeddings is True). If the model has two, write false "
                f"there in a copy of {CONFIG}; else take {_HEAD} out."
            )
    hashes = {path.name: _hash(path) for path in paths}
    kinds = {found[theirs].dtype for theirs in stored}
    return ForeignWeights(weights, hashes, tuple(sorted(kinds)))


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, or say what the folder has instead."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ImportRefusedError(
            f"{folder} has its weights only as a pickle ({pickles[0]}), which can run any program "
            "when it is read, so it is never read here. If you trust it, write it as safetensors "
            'with transformers: python -c "from transformers import AutoModelForCausalLM as M, '
            f"AutoTokenizer as T; M.from_pretrained('{folder}').save_pretrained('NEW'); "
            f"T.from_pretrained('{folder}').save_pretrained('NEW')\""
        )
    for pattern, program in _ELSEWHERE.items():
        if any(folder.glob(pattern)):
            raise ImportRefusedError(
                f"{folder} has weights for {program} and none as safetensors. Take the folder "
                f"with {WEIGHTS}."
            )
    raise ImportRefusedError(f"{folder} has no weights: neither {WEIGHTS} nor {INDEX} is there.")


def _indexed_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ImportRefusedError(f"{index} is damaged: it has no weight_map.")
    paths = []
    for name in dict.fromkeys(map(str, table.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ImportRefusedError(
                f"{index} is damaged or hostile: it names {shown(name)}, which is no safetensors "
                "file of this folder."
            )
        if not (folder / name).is_file():
            raise ImportRefusedError(f"{index} names {name}, and there is no such file.")
        paths.append(folder / name)
    return paths


@contextlib.contextmanager
def _opened(paths: list[Path]) -> Iterator[dict[Path, Any]]:
    """Open files of tensors; their headers are checked."""
    with contextlib.ExitStack() as stack:
        files = {}
        for path in paths:
            try:
                files[path] = stack.enter_context(safe_open(path, framework="pt"))
            except OSError as error:
                raise ImportRefusedError(f"The file {path} cannot be read: {error}.") from None
            except SafetensorError as error:
                raise ImportRefusedError(
                    f"The file {path} is damaged or was not wholly copied: {error}."
                ) from None
        yield files


def _headers(paths: list[Path]) -> dict[str, _Found]:
    """Return what the files hold, constants left out, before any value is read."""
    found: dict[str, _Found] = {}
    with _opened(paths) as files:
        for path, file in files.items():
            for name in file.keys():  # noqa: SIM118  (not a dictionary)
                if _BUFFERS.fullmatch(name):
                    continue
                if name in found:
                    raise ImportRefusedError(
                        f"{name} stands in two files, {found[name].file} and {path}."
                    )
                tensor = file.get_slice(name)
                found[name] = _Found(path, name, tuple(tensor.get_shape()), tensor.get_dtype())
    return found


def _with_prefix(found: dict[str, _Found], prefix: str) -> dict[str, _Found]:
    """Give the names of a bare model, which files of the Hub often hold, their beginning."""
    if any(name.startswith(prefix) for name in found):
        return found
    return {name if name == _HEAD else prefix + name: tensor for name, tensor in found.items()}


def _shapes(
    folder: Path, config: ModelConfig, found: Mapping[str, _Found]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of our weights, without building a model that the files are too small for.

    Raises:
        ImportRefusedError: the config asks for far more weights than there are.
    """
    wanted = count_parameters(config).total
    there = sum(torch.Size(tensor.shape).numel() for tensor in found.values())
    if wanted > 2 * there:
        raise ImportRefusedError(
            f"{folder / CONFIG} asks for {wanted:,} parameters, and the files have {there:,}: "
            "they do not belong together, or files are missing."
        )
    if config.position != "learned":  # the tables of the others are no weights
        config = dataclasses.replace(config, position="none")
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(weight.shape) for name, weight in named_weights(model).items()}


def _compare(
    folder: Path,
    found: Mapping[str, _Found],
    stored: Mapping[str, Stored],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise `ImportRefusedError` where names, shapes or types are not those of the config."""
    missing = [name for name in stored if name not in found]
    surplus = [tensor.name for name, tensor in found.items() if name not in stored]
    if missing or surplus:
        told = {"Missing": missing, "Not a part of such a model": surplus}
        parts = [f"{what}: {_some(names)}" for what, names in told.items() if names]
        hint = ""
        if _HEAD in missing:
            hint = " If the output is the token embedding, tie_word_embeddings must be true there."
        raise ImportRefusedError(
            f"The weights in {folder} are not those of its {CONFIG}. {'; '.join(parts)}.{hint}"
        )
    for name, kept in stored.items():
        tensor, wanted = found[name], kept.shape(shapes)
        if tensor.shape != wanted:
            raise ImportRefusedError(
                f"{tensor.file}: {tensor.name} has shape {tensor.shape}, and {CONFIG} asks for "
                f"{wanted}."
            )
        if tensor.dtype not in _READABLE:
            raise ImportRefusedError(
                f"{tensor.file}: {tensor.name} is stored as {tensor.dtype}. Read are "
                f"{', '.join(_READABLE)}; take the model before it was quantised."
            )


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _read(files: Mapping[Path, Any], tensor: _Found) -> Tensor:
    """Return a tensor in float32; refuse one that is not finite."""
    values = files[tensor.file].get_tensor(tensor.name).float()
    if not bool(torch.isfinite(values).all()):
        raise ImportRefusedError(
            f"{tensor.file}: {tensor.name} holds a value that is not a finite number."
        )
    return values


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
