"""Any tokenizer from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_transformer.runtime.errors import VocabularyError
from tiny_transformer.text import bpe, vocabulary_file
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.json_file import read_json
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer

FILES = ("tokenizer.json", "vocab.json")
"""What a folder calls its tokenizer, the likelier first."""


def load_tokenizer(path: str | Path, data: bytes | None = None) -> Tokenizer:
    """Return the tokenizer saved at `path`, of whichever kind it is.

    Args:
        path: a run's `vocab.json`, another program's `tokenizer.json`, or a folder with one.
        data: the file's content, where that has been read already.

    Raises:
        VocabularyError: the file is missing, damaged or of another kind; the package
            `tokenizers` is needed and missing.
    """
    path = Path(path)
    if data is None:
        path = _in_folder(path)

    def refuse(reason: str) -> VocabularyError:
        return VocabularyError(
            f"The vocabulary file {path} cannot be used: {reason} Give the vocab.json of a run, "
            "or the tokenizer.json of a byte-pair encoding."
        )

    data = _content(path, refuse) if data is None else data
    value = read_json(path, refuse, data)
    kind = value.get("format") if isinstance(value, dict) else None
    if kind == vocabulary_file.FORMAT:
        return CharTokenizer.load(path, data)
    if kind == bpe.FORMAT:
        return BpeTokenizer.load(path, data)
    if isinstance(value, dict) and kind is None and "model" in value:
        return BpeTokenizer.from_json(data.decode(), where=str(path))
    if isinstance(value, dict) and value and all(type(index) is int for index in value.values()):
        raise refuse("it is a list of tokens alone, without what splits a text into them.")
    raise refuse(f"its format is {kind!r}; expected {vocabulary_file.FORMAT!r} or {bpe.FORMAT!r}.")


def _content(path: Path, refuse: Any) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise refuse("there is no such file.") from None
    except OSError as error:
        raise refuse(f"it cannot be read ({error.strerror}).") from None


def _in_folder(path: Path) -> Path:
    """Return the tokenizer's file, where `path` is the folder that it lies in."""
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise VocabularyError(f"The folder {path} has no tokenizer: neither {' nor '.join(FILES)}.")
    return found
