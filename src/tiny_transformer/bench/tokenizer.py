"""Tokenizers: characters to ids and back, on one ASCII text, in MB (10^6 characters) a second.

All of them produce the same 99-token ids. The peers:

- a dict from character to id and a list comprehension, as small projects write it;
- Hugging Face's `tokenizers` (Rust): a BPE model with our vocabulary and no merges, through
  `encode_batch_fast`. Of its character-level arrangements (ByteLevel with and without the
  regular expression, WordLevel over single characters) this was the fastest;
- `bytes.translate` alone: a table look-up a byte, without any check. It is no tokenizer, but
  a ceiling for one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from tiny_transformer.bench.measure import Budget, Rate, in_turns, rate_for
from tiny_transformer.bench.report import OURS, Row, section_rows
from tiny_transformer.data import resolve_corpus
from tiny_transformer.text import CharTokenizer, normalize_text

DICT, RUST, CEILING = "Python dict", "tokenizers (Rust)", "bytes.translate"
Codec = tuple[Callable[[str], Any], Callable[[Any], str]]


def ascii_text(corpus: str, length: int) -> str:
    """Return `length` allowed ASCII characters of a corpus, repeated where it is shorter."""
    text = normalize_text("".join(resolve_corpus(corpus).texts()), transliterate=True)
    text = text.encode("ascii", "ignore").decode()
    return (text * (-(-length // len(text))))[:length]


def codecs() -> dict[str, Codec]:
    """Return for each subject the function that encodes and the one that decodes."""
    ours = CharTokenizer()
    id_of = {token: index for index, token in enumerate(ours.tokens)}
    to_ids = bytes(id_of.get(chr(byte), 1) for byte in range(256))
    to_text = bytes(ord(token) for token in ours.tokens[2:]).rjust(len(ours.tokens), b"?")
    to_text = to_text.ljust(256, b"?")
    subjects: dict[str, Codec] = {
        OURS: (ours.encode, ours.decode),
        DICT: (
            lambda text: [id_of.get(character, 1) for character in text],
            lambda ids: "".join([ours.tokens[i] for i in ids]),
        ),
        CEILING: (
            lambda text: np.frombuffer(text.encode("ascii").translate(to_ids), np.uint8),
            lambda ids: ids.tobytes().translate(to_text).decode("ascii"),
        ),
    }
    if importlib.util.find_spec("tokenizers") is not None:
        rust = _rust(id_of)
        subjects[RUST] = (lambda text: rust.encode_batch_fast([text])[0].ids, rust.decode)
    return subjects


def _rust(id_of: dict[str, int]) -> Any:
    from tokenizers import Tokenizer, decoders, models

    tokenizer: Any = Tokenizer(models.BPE(vocab=id_of, merges=[], unk_token="<UNK>"))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def measure_tokenizers(
    budget: Budget, *, corpus: str = "shakespeare"
) -> tuple[dict[str, Rate], dict[str, Rate]]:
    """Return characters a second of encoding, and of decoding what each encoded."""
    text = ascii_text(corpus, budget.characters)
    encoders: dict[str, Callable[[], float]] = {}
    decoders: dict[str, Callable[[], float]] = {}
    for name, (encode, decode) in codecs().items():
        ids = encode(text)
        encoders[name] = lambda encode=encode: rate_for(
            lambda: encode(text), len(text), budget.seconds
        )
        decoders[name] = lambda decode=decode, ids=ids: rate_for(
            lambda: decode(ids), len(text), budget.seconds
        )
    return in_turns(encoders, budget.rounds), in_turns(decoders, budget.rounds)


def tokenizer_rows(budget: Budget, *, corpus: str = "shakespeare") -> list[Row]:
    """Return the speed of encoding and of decoding."""
    encoding, decoding = measure_tokenizers(budget, corpus=corpus)
    rows = []
    for section, rates in (("encoding", encoding), ("decoding", decoding)):
        title = f"{section}, {budget.characters:,} characters"
        rows += section_rows(title, "MB/s", rates, ours=OURS, scale=1e6)
    return rows
