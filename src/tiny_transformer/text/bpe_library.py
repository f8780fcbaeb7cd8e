"""What is asked of the package `tokenizers`: to build a tokenizer from JSON, and to train one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from typing import Any

from tiny_transformer.runtime.errors import DataError, VocabularyError
from tiny_transformer.text.pieces import cut_stream, safe_places

LEAST_SIZE = 257
"""Tokens of the smallest vocabulary: the 256 bytes, and a pair."""
INSTALL = "pip install 'tiny-transformer[bpe]'"


def require_library() -> Any:
    """Return the package `tokenizers`, imported when it is first needed.

    Raises:
        VocabularyError: it is not installed.
    """
    try:
        library = importlib.import_module("tokenizers")
        for module in ("models", "pre_tokenizers", "decoders", "trainers"):
            importlib.import_module(f"tokenizers.{module}")
    except ImportError as error:
        raise VocabularyError(
            "A byte-pair encoding needs the package tokenizers, which cannot be imported "
            f"({error}). Install it: {INSTALL}"
        ) from None
    return library


def build(spec: dict[str, Any]) -> Any:
    """Return the library's tokenizer, which reads special tokens as text.

    Raises:
        VocabularyError: the library is missing, or does not read the JSON.
    """
    library = require_library()
    try:
        made = library.Tokenizer.from_str(json.dumps(spec))
    except BaseException as error:  # what Rust panics with is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise VocabularyError(f"the package tokenizers does not read it ({error}).") from None
    made.encode_special_tokens = True
    return made


def train_spec(texts: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """Train as `BpeTokenizer.train` describes; return the JSON."""
    library = require_library()
    if vocab_size < LEAST_SIZE:
        raise DataError(
            f"A byte-pair encoding has at least {LEAST_SIZE} tokens, the 256 bytes and a pair; "
            f"{vocab_size} were asked for."
        )
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a pair that occurs once shortens nothing else
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # In small pieces, for the library holds 256 of them at once.
    made.train_from_iterator(cut_stream(texts, safe_places(())), trainer)
    found = made.get_vocab_size()
    if found < vocab_size:
        raise DataError(
            f"The text gives a byte-pair encoding of only {found} tokens, and {vocab_size} were "
            "asked for: no other pair occurs twice. Give a longer text, or set "
            f"--model.vocab-size {found}."
        )
    return json.loads(made.to_str())
