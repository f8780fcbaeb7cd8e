"""Characters to token ids and back: one token a character, 99 tokens.

`<PAD>` is 0, `<UNK>` is 1, and the 97 allowed characters follow in code order: the tab is
2, the newline 3, the space 4, `~` 98. The vocabulary is the same for every corpus, so a
model trained on one text reads any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

import numpy as np

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import VocabularyError
from tiny_transformer.text.normalize import (
    ALLOWED,
    PLACEHOLDER,
    find_unknown,
    transliterate_text,
    unify_newlines,
)
from tiny_transformer.text.vocabulary_file import read_vocabulary, vocabulary_text

if TYPE_CHECKING:
    from torch import Tensor

PAD, UNK = "<PAD>", "<UNK>"
_FIRST = 2  # id of the first character: after the two special tokens
_CHUNK = 1 << 16  # characters encoded at once: the pieces stay in a core's cache

_ID_OF_BYTE = bytes(
    ALLOWED.index(chr(byte)) + _FIRST if chr(byte) in ALLOWED else 1 for byte in range(256)
)
_ID_OF_CODE = np.frombuffer(_ID_OF_BYTE, np.uint8)[:128]
# NUL, which no token spells, marks UNK until the bytes have become a string.
_BYTE_OF_ID = np.frombuffer(b"\0\0" + ALLOWED.encode("ascii"), np.uint8)


class Tokenizer(Protocol):
    """What the data floor asks of a tokenizer; `CharTokenizer` is one."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are 0 to `vocab_size - 1`."""
        ...

    @property
    def unk_id(self) -> int:
        """Id of what the vocabulary cannot spell."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides how text becomes ids."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`: `(T,)`, an unsigned integer type."""
        ...

    def find_unknown(self, text: str) -> list[str]:
        """Return the characters of `text` that become `unk_id`, each time they occur."""
        ...


class CharTokenizer:
    """The character vocabulary.

    Args:
        transliterate: spell accents, curly quotes and dashes in ASCII before other
            characters become unknown.

    Attributes:
        transliterate: as given.
        vocab_size: 99.
        pad_id: 0; fills short rows of a batch.
        unk_id: 1; any character outside the vocabulary.
        special_ids: the ids that spell no character, `(pad_id, unk_id)`.
        tokens: the 99 tokens as strings, by id.
    """

    pad_id: int = 0
    unk_id: int = 1
    special_ids: tuple[int, ...] = (0, 1)
    tokens: tuple[str, ...] = (PAD, UNK, *ALLOWED)
    vocab_size: int = len(tokens)

    def __init__(self, transliterate: bool = False) -> None:
        self.transliterate = transliterate

    def __repr__(self) -> str:
        return f"CharTokenizer(transliterate={self.transliterate})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the vocabulary's canonical JSON: equal means equal behaviour."""
        text = vocabulary_text(self.tokens, self.transliterate)
        canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text` after normalisation: uint8 `(T,)`."""
        text = unify_newlines(text)
        if self.transliterate:
            text = transliterate_text(text)
        ids = np.empty(len(text), np.uint8)
        for start in range(0, len(text), _CHUNK):
            piece = text[start : start + _CHUNK]
            if piece.isascii():
                encoded = np.frombuffer(piece.encode("ascii").translate(_ID_OF_BYTE), np.uint8)
            else:
                codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), "<u4")
                encoded = _ID_OF_CODE[np.minimum(codes, 127)]  # 127 (DEL) is unknown too
            ids[start : start + _CHUNK] = encoded
        return ids

    def decode(self, ids: Iterable[SupportsIndex] | np.ndarray | Tensor) -> str:
        """Return the text of `ids`; `<UNK>` becomes U+FFFD and `<PAD>` nothing.

        Args:
            ids: `(T,)` integers as an array, a tensor or a sequence.

        Raises:
            VocabularyError: an id is not an integer or is outside the vocabulary; the
                message names it and its position.
        """
        array = self._checked(ids)
        text = _BYTE_OF_ID[array[array != self.pad_id]].tobytes().decode("ascii")
        return text.replace("\0", PLACEHOLDER)

    def encode_batch(self, texts: Sequence[str]) -> np.ndarray:
        """Return the ids of several texts: int64 `(B, T)`, short rows filled with `<PAD>`."""
        rows = [self.encode(text) for text in texts]
        batch = np.full((len(rows), max(map(len, rows), default=0)), self.pad_id, np.int64)
        for row, ids in zip(batch, rows, strict=True):
            row[: len(ids)] = ids
        return batch

    def decode_batch(
        self, ids: Iterable[Iterable[SupportsIndex]] | np.ndarray | Tensor
    ) -> list[str]:
        """Return the text of each row of `ids`, as `decode` does."""
        return [self.decode(row) for row in ids]

    def find_unknown(self, text: str) -> list[str]:
        """Return the characters of `text` that become `<UNK>`, each time they occur."""
        return find_unknown(text, transliterate=self.transliterate)

    def unknown_characters(self, text: str) -> list[str]:
        """Return the distinct unknown characters of `text`, in order of appearance."""
        return list(dict.fromkeys(self.find_unknown(text)))

    def save(self, path: str | Path) -> None:
        """Write the vocabulary to `path` as JSON that a person can read."""
        files.write_text(Path(path), vocabulary_text(self.tokens, self.transliterate))

    @classmethod
    def load(cls, path: str | Path, data: bytes | None = None) -> CharTokenizer:
        """Return the tokenizer saved at `path`.

        Args:
            path: the vocabulary file.
            data: its content, where that has been read already.

        Raises:
            VocabularyError: the file is missing, damaged or not this vocabulary; the
                message gives the first difference and what to do.
        """
        return cls(transliterate=read_vocabulary(Path(path), cls.tokens, data))

    def _checked(self, ids: Any) -> np.ndarray:
        """Return `ids` as a one-dimensional integer array of known ids, or explain."""
        if hasattr(ids, "detach"):
            ids = ids.detach().cpu()  # a tensor, wherever it lies
        elif not isinstance(ids, np.ndarray):
            ids = list(ids)
            if not all(type(value) is int for value in ids):
                ids = self._plain_integers(ids)
            outside = [i for i, value in enumerate(ids) if not 0 <= value < self.vocab_size]
            if outside:
                raise self._outside(ids[outside[0]], outside[0])
            ids = np.array(ids, np.int64)
        array = np.asarray(ids)
        if array.ndim != 1:
            raise VocabularyError(
                f"decode takes one row of ids, but got an array of shape {array.shape}; "
                "use decode_batch for several rows."
            )
        if array.dtype.kind not in "iu" and array.size:
            raise self._not_integer(array[0].item(), 0)
        wrong = np.flatnonzero((array < 0) | (array >= self.vocab_size))
        if wrong.size:
            raise self._outside(int(array[wrong[0]]), int(wrong[0]))
        return array.astype(np.intp)

    def _plain_integers(self, values: list[Any]) -> list[int]:
        """Return numpy's and torch's scalar integers as plain ones; explain anything else."""
        plain: list[int] = []
        for position, value in enumerate(values):
            if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
                raise self._not_integer(value, position)
            try:
                plain.append(value.__index__())
            except TypeError:
                raise self._not_integer(value, position) from None
        return plain

    def _outside(self, value: int, position: int) -> VocabularyError:
        return VocabularyError(
            f"Id {value} at position {position} is not in the vocabulary; "
            f"ids are 0 to {self.vocab_size - 1}."
        )

    @staticmethod
    def _not_integer(value: object, position: int) -> VocabularyError:
        return VocabularyError(
            f"Id {value!r} at position {position} is a {type(value).__name__}; "
            "ids are integers, as encode returns them."
        )
