"""Byte-pair encoding over bytes: a token is a run of bytes that occurs often.

It wraps a tokenizer of Hugging Face's `tokenizers`, trained here on a corpus or read from
another program's `tokenizer.json`. Notable: decoding is ours, a table of the bytes of each
token, so that a text can be written while it is generated, and the last bytes of a character
wait for the rest of it. Text that reads like a special token (`<|endoftext|>`) is text like any
other, in a prompt as in a corpus: only a program that puts its id there means the token.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units";
over bytes: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section
2.2.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import VocabularyError
from tiny_transformer.text.bpe_json import (
    SPACE,
    byte_letters,
    check_spec,
    end_tokens,
    is_byte_level,
    plain_spec,
    special_tokens,
    token_bytes,
    trims_space,
    without_prefix,
)
from tiny_transformer.text.bpe_library import build, require_library, train_spec
from tiny_transformer.text.ids import checked_ids
from tiny_transformer.text.json_file import Refuse, read_json
from tiny_transformer.text.normalize import PLACEHOLDER
from tiny_transformer.text.pieces import cut_stream, safe_places

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "tiny_transformer.bpe_vocabulary"
VERSION = 1

_FIELDS = ("format", "version", "sha256", "tokenizer")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NEVER_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))


class BpeTokenizer:
    """A byte-level byte-pair encoding.

    `decode(encode(text))` is `text` for every string without lone surrogates, which UTF-8 does
    not have: they are read as U+FFFD. (Another program's tokenizer may normalise text first.)

    Args:
        spec: the JSON of a tokenizer of Hugging Face, as `check_spec` passes it.

    Attributes:
        spec: as given.
        vocab_size: the highest id and one; what `model.vocab_size` must be at least.
        unk_id: of a character that cannot be spelled; None where every byte has a token.
        special_ids: tokens that spell no text, and ids that have no token.
        end_ids: those of them that end a text.
        unit: `"token"`.
        byte_lengths: bytes that each token spells: int64 `(V,)`.
        char_lengths: characters that begin in each token: int64 `(V,)`.

    Raises:
        VocabularyError: the package `tokenizers` is missing, or cannot read the JSON.
    """

    unit: str = "token"

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = plain_spec(spec)
        self._fingerprint = _digest(self.spec)
        self._inner = build(self.spec)
        continuing = without_prefix(self.spec)
        self._continuing = self._inner if continuing == self.spec else build(continuing)
        self._bytes = token_bytes(self.spec)
        self._trims = trims_space(self.spec)
        self._specials = special_tokens(self.spec)
        self._places = safe_places(self._bytes)
        self.vocab_size = len(self._bytes)
        self.special_ids = tuple(self._specials)
        self.end_ids = end_tokens(self._specials)
        unknown = self.spec["model"].get("unk_token")
        self.unk_id: int | None = self._inner.token_to_id(unknown) if unknown else None
        self.byte_lengths = np.array([len(token) for token in self._bytes], np.int64)
        self.char_lengths = np.array(
            [sum(byte & 0xC0 != 0x80 for byte in token) for token in self._bytes], np.int64
        )
        self._dtype = np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def __repr__(self) -> str:
        return f"BpeTokenizer({self.vocab_size} tokens, {self.fingerprint[:8]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BpeTokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the tokenizer's canonical JSON: equal means equal behaviour."""
        return self._fingerprint

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
        """Return an encoding whose merges are the commonest pairs of a text.

        The first 256 tokens are the bytes. There is no normalisation and no special token, and
        GPT-2's regular expression keeps merges inside of words. The same text gives the same
        tokenizer, with any number of threads. The library counts words, so memory grows with
        the number of different words, and not with the length of the text.

        Args:
            texts: the text, in pieces of any size.
            vocab_size: tokens, at least 257.

        Raises:
            DataError: the text has too few pairs that occur twice; the message says how many
                tokens it gives.
            VocabularyError: the package `tokenizers` is missing.
        """
        return cls(train_spec(map(_without_surrogates, texts), vocab_size))

    @classmethod
    def from_json(cls, text: str, where: str = "tokenizer.json") -> BpeTokenizer:
        """Return the tokenizer of a `tokenizer.json` as other programs write it.

        Args:
            text: its content.
            where: how messages name it.

        Raises:
            VocabularyError: it is not one of the two families that `bpe_json` knows.
        """

        def refuse(reason: str) -> VocabularyError:
            return VocabularyError(f"The tokenizer {where} cannot be used: {reason}")

        spec = read_json(Path(where), refuse, text.encode("utf-8", "surrogatepass"))
        check_spec(spec, refuse)
        return cls._checked(spec, refuse)

    @classmethod
    def load(cls, path: str | Path, data: bytes | None = None) -> BpeTokenizer:
        """Return the tokenizer saved at `path`.

        Args:
            path: the vocabulary file.
            data: its content, where that has been read already.

        Raises:
            VocabularyError: the file is missing, damaged or another program's.
        """

        def refuse(reason: str) -> VocabularyError:
            return VocabularyError(
                f"The vocabulary file {path} cannot be used: {reason} Take the vocab.json of an "
                "undamaged copy of the run."
            )

        value = read_json(Path(path), refuse, data)
        if reason := _first_fault(value):
            raise refuse(reason)
        check_spec(value["tokenizer"], refuse)
        return cls._checked(value["tokenizer"], refuse)

    @classmethod
    def _checked(cls, spec: dict[str, Any], refuse: Refuse) -> BpeTokenizer:
        require_library()  # its absence is another error
        try:
            return cls(spec)
        except VocabularyError as error:
            raise refuse(str(error)) from None

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to `path`: JSON, with the library's own JSON inside."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            "sha256": self.fingerprint,
            "tokenizer": self.spec,
        }
        files.write_text(Path(path), json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def to_json(self) -> str:
        """Return the `tokenizer.json` that the library itself writes."""
        return self._inner.to_str(pretty=True) + "\n"

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of `text`: uint16 `(T,)`, or uint32 beyond 65,536 tokens."""
        pieces = [ids for _, ids in self.encode_stream([text])]
        return np.concatenate(pieces) if pieces else np.empty(0, self._dtype)

    def encode_stream(self, texts: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield pieces of a text with their ids, together those of the whole text.

        Pieces end where no token and no rule of the pre-tokenizer reaches across (see
        `text/pieces.py`); a stretch of 1,048,576 characters without such a place is cut.
        """
        first = True
        for piece in cut_stream(texts, self._places):
            inner = self._inner if first else self._continuing
            ids = inner.encode(_without_surrogates(piece), add_special_tokens=False).ids
            yield piece, np.array(ids, self._dtype)
            first = False

    def decode(self, ids: Iterable[SupportsIndex] | np.ndarray | Tensor) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD, special tokens nothing.

        Args:
            ids: `(T,)` integers as an array, a tensor or a sequence.

        Raises:
            VocabularyError: an id is not an integer or is outside the vocabulary; the
                message names it and its position.
        """
        spelled = b"".join(map(self._bytes.__getitem__, checked_ids(ids, self.vocab_size)))
        return (spelled.removeprefix(b" ") if self._trims else spelled).decode("utf-8", "replace")

    def stream(self, *, continues: bool = False) -> BpeStream:
        """Return what decodes ids one by one; the bytes of a character wait for its last."""
        return BpeStream(self, trims=self._trims and not continues)

    def token_bytes(self, token: int) -> bytes:
        """Return what a token spells."""
        return self._bytes[int(checked_ids([token], self.vocab_size)[0])]

    def special_name(self, token: int) -> str:
        """Return what one of `special_ids` is called."""
        return self._specials[token]

    def label(self, token: int) -> str:
        """Return a token's text in quotes, its bytes where they are no text, or its name."""
        spelled = self.token_bytes(token)
        if token in self._specials:
            return repr(self._specials[token])
        try:
            return repr(spelled.decode())
        except UnicodeDecodeError:
            return f"<{spelled.hex(' ').upper()}>"

    def find_unknown(self, text: str) -> list[str]:
        """Return the characters of `text` that cannot be spelled, each time they occur."""
        if not self._missing:
            return [] if text.isascii() else _SURROGATES.findall(text)
        return [character for character in text if self._lacks(character)]

    def unknown_characters(self, text: str) -> list[str]:
        """Return the distinct unknown characters of `text`, in order of appearance."""
        return list(dict.fromkeys(self.find_unknown(text)))

    def _lacks(self, character: str) -> bool:
        if _SURROGATES.match(character):
            return True
        if not is_byte_level(self.spec):
            piece = SPACE if character == " " else character
            if piece in self.spec["model"]["vocab"]:
                return False
        return not self._missing.isdisjoint(character.encode())

    @functools.cached_property
    def _missing(self) -> frozenset[int]:
        """The bytes of UTF-8 that have no token; GPT-2 and what is trained here have all."""
        vocabulary, letters = self.spec["model"]["vocab"], byte_letters()
        byte_level = is_byte_level(self.spec)
        tokens = {byte: letters[byte] if byte_level else f"<0x{byte:02X}>" for byte in range(256)}
        lacking = {byte for byte, token in tokens.items() if token not in vocabulary}
        return frozenset(lacking - _NEVER_IN_UTF8)


class BpeStream:
    """Decodes ids one by one, and holds back the bytes of an unfinished character."""

    def __init__(self, tokenizer: BpeTokenizer, *, trims: bool) -> None:
        self._tokenizer = tokenizer
        self._trims = trims
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """Return the characters that `token` completes."""
        spelled = self._tokenizer.token_bytes(token)
        if self._trims and spelled:
            spelled, self._trims = spelled.removeprefix(b" "), False
        return self._decoder.decode(spelled)

    def end(self) -> str:
        """Return U+FFFD if a character was left unfinished, else nothing."""
        return self._decoder.decode(b"", final=True)


def _digest(spec: dict[str, Any]) -> str:
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _first_fault(value: Any) -> str | None:
    """Return a sentence on the first thing that is wrong with a saved tokenizer."""
    if not isinstance(value, dict):
        return f"it holds a {type(value).__name__}, not an object."
    for name in _FIELDS:
        if name not in value:
            return f"{name!r} is missing."
    if value["format"] != FORMAT:
        return f"its format is {value['format']!r}; expected {FORMAT!r}."
    if type(value["version"]) is not int or value["version"] != VERSION:
        return f"its version is {value['version']!r}; this program reads version {VERSION}."
    extra = sorted(set(value) - set(_FIELDS))
    if extra:
        return f"{extra[0]!r} is not a part of this format."
    if value["sha256"] != _digest(value["tokenizer"]):
        return "it is not what was saved: its SHA-256 is another."
    return None


def _without_surrogates(text: str) -> str:
    return text if text.isascii() else _SURROGATES.sub(PLACEHOLDER, text)
