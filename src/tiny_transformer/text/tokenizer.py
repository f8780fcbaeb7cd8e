"""What a tokenizer is, and the simplest one: one token a character, 99 tokens.

Of its tokens `<PAD>` is 0, `<UNK>` is 1, and the 97 allowed characters follow in code order:
the tab is 2, the newline 3, the space 4, `~` 98. The vocabulary is the same for every corpus,
so a model trained on one text reads any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, SupportsIndex

import numpy as np

from tiny_transformer.runtime import files
from tiny_transformer.text.ids import checked_ids
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
_TEXT_OF_ID = ("", PLACEHOLDER, *ALLOWED)


class TextStream(Protocol):
    """Turns token ids into text as they come."""

    def add(self, token: int) -> str:
        """Take the next id; return the text that has become certain, which may be empty."""
        ...

    def end(self) -> str:
        """Nothing more will come; return the text that was held back."""
        ...


class Tokenizer(Protocol):
    """What every user of a tokenizer relies on: `CharTokenizer` and `BpeTokenizer` are ones."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are 0 to `vocab_size - 1`."""
        ...

    @property
    def unk_id(self) -> int | None:
        """Id of what the vocabulary cannot spell; None where there is no such token."""
        ...

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that spell no text: `encode` never returns them, unless for unknown characters."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Those of `special_ids` at which a generated text ends; the others are forbidden."""
        ...

    @property
    def unit(self) -> str:
        """What one token is, for messages: `character` or `token`."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides how text becomes ids."""
        ...

    @property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of UTF-8 that each token spells: int64 `(V,)`."""
        ...

    @property
    def char_lengths(self) -> np.ndarray:
        """Characters that begin in each token: int64 `(V,)`."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`: `(T,)`, an unsigned integer type."""
        ...

    def encode_stream(self, texts: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield pieces of a text with their ids, in memory that does not grow with the text.

        Args:
            texts: the text in pieces of any size, none of which ends inside a CRLF pair.

        Yields:
            Pieces, perhaps cut elsewhere, whose ids together are those of the whole text.
        """
        ...

    def decode(self, ids: Iterable[SupportsIndex] | np.ndarray | Tensor) -> str:
        """Return the text of `ids`: `(T,)` integers as an array, a tensor or a sequence."""
        ...

    def stream(self, *, continues: bool = False) -> TextStream:
        """Return what decodes ids one by one; the pieces together are `decode` of all ids.

        Args:
            continues: whether the ids continue a text, so that nothing is trimmed from their
                beginning. Only tokenizers that put a space before every text trim anything.
        """
        ...

    def label(self, token: int) -> str:
        """Return a token as a table shows it: its text in quotes, or its bytes."""
        ...

    def find_unknown(self, text: str) -> list[str]:
        """Return the characters of `text` that cannot be spelled, each time they occur."""
        ...

    def unknown_characters(self, text: str) -> list[str]:
        """Return the distinct ones of `find_unknown`, in order of appearance."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to `path`, from where `load_tokenizer` reads it."""
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
        end_ids: none: no token ends a text.
        unit: `"character"`.
        byte_lengths: 1 for every token but `<PAD>`. An unknown character counts as one byte,
            whatever it had in the file, so that what the model cannot spell never makes it
            look better in bits per byte.
        char_lengths: the same numbers.
        tokens: the 99 tokens as strings, by id.
    """

    pad_id: int = 0
    unk_id: int = 1
    special_ids: tuple[int, ...] = (0, 1)
    end_ids: tuple[int, ...] = ()
    unit: str = "character"
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

    @property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of each token: int64 `(99,)`."""
        return np.array([0] + [1] * (self.vocab_size - 1), np.int64)

    @property
    def char_lengths(self) -> np.ndarray:
        """Characters of each token: int64 `(99,)`."""
        return self.byte_lengths

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

    def encode_stream(self, texts: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each piece with its ids; no piece may end inside a CRLF pair."""
        for text in texts:
            yield text, self.encode(text)

    def decode(self, ids: Iterable[SupportsIndex] | np.ndarray | Tensor) -> str:
        """Return the text of `ids`; `<UNK>` becomes U+FFFD and `<PAD>` nothing.

        Args:
            ids: `(T,)` integers as an array, a tensor or a sequence.

        Raises:
            VocabularyError: an id is not an integer or is outside the vocabulary; the
                message names it and its position.
        """
        array = checked_ids(ids, self.vocab_size)
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

    def stream(self, *, continues: bool = False) -> CharStream:
        """Return what decodes ids one by one; a character never waits for another."""
        return CharStream(self)

    def label(self, token: int) -> str:
        """Return a token in quotes; `<PAD>` and `<UNK>` by their names."""
        return repr(self.tokens[token])

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


class CharStream:
    """Decodes characters one by one."""

    def __init__(self, tokenizer: CharTokenizer) -> None:
        self._tokenizer = tokenizer

    def add(self, token: int) -> str:
        """Return the character of `token`."""
        if 0 <= token < len(_TEXT_OF_ID):
            return _TEXT_OF_ID[token]
        return self._tokenizer.decode([token])  # which says what is wrong with it

    def end(self) -> str:
        """Return nothing: nothing is ever held back."""
        return ""
