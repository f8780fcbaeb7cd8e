"""From a config to its tokenizer: characters, one from a file, or byte pairs of the corpus.

Byte pairs are found in the training part alone, and kept in the cache beside the prepared
corpora: the file's name is a hash of the source, the split, the size and the library's
version. A damaged one is made again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tiny_transformer.config import DataConfig
from tiny_transformer.data.cache import VARIABLE, cache_folder
from tiny_transformer.data.corpora import Corpus, resolve_corpus
from tiny_transformer.data.dataset import Split, split_corpus, validation_span
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import (
    ConfigError,
    DataError,
    StorageError,
    VocabularyError,
    suggest,
)
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer

FORMAT_VERSION = 1
NAMES = ("characters", "bpe")
"""What `data.tokenizer` may be, beside a path."""


def tokenizer_of(config: DataConfig, vocab_size: int) -> Tokenizer:
    """Return the tokenizer that a config names, trained if it is not in the cache.

    Args:
        config: `tokenizer`, and for `bpe` the corpus and its split.
        vocab_size: tokens of a byte-pair encoding that is trained.

    Raises:
        ConfigError: `tokenizer` is neither a name nor a path.
        DataError: the corpus cannot be read, or is too short for so many tokens.
        StorageError: the cache cannot be written.
        VocabularyError: a file is damaged, or the package `tokenizers` is missing.
    """
    if config.tokenizer == "characters":
        return CharTokenizer(transliterate=config.transliterate)
    if config.tokenizer == "bpe":
        return _trained(config, vocab_size)
    from tiny_transformer.text.load import load_tokenizer

    path = Path(config.tokenizer).expanduser()
    if not path.exists():
        raise ConfigError(
            f"data.tokenizer is {config.tokenizer!r}, and there is no such file or folder. "
            f"{suggest(config.tokenizer, NAMES)} A path leads to a vocab.json or tokenizer.json, "
            "or to a run that has one."
        )
    return load_tokenizer(path)


def split_for(tokens: np.ndarray, config: DataConfig, tokenizer: Tokenizer) -> Split:
    """Split a corpus as a config says: characters by their number, other tokens by bytes."""
    lengths = None if isinstance(tokenizer, CharTokenizer) else tokenizer.byte_lengths
    return split_corpus(tokens, config.val_fraction, config.split_seed, byte_lengths=lengths)


def training_texts(corpus: Corpus, config: DataConfig) -> Iterator[str]:
    """Yield the text of a corpus outside of its validation part, in constant memory.

    The text is read once before, to count its bytes. A character that the border cuts is on
    the training side, so that the parts may share a few bytes there.
    """
    total = sum(len(text.encode()) for text in corpus.texts(config.errors))
    start, end = validation_span(total, config.val_fraction, config.split_seed)
    before = 0
    for text in corpus.texts(config.errors):
        encoded = text.encode()
        left = _border(encoded, start - before, step=1)
        right = _border(encoded, end - before, step=-1)
        yield encoded[:left].decode()
        yield encoded[right:].decode()
        before += len(encoded)


def _border(encoded: bytes, place: int, *, step: int) -> int:
    """Return `place`, moved by steps until it lies between two characters."""
    place = min(max(place, 0), len(encoded))
    while 0 < place < len(encoded) and encoded[place] & 0xC0 == 0x80:
        place += step
    return place


def _trained(config: DataConfig, vocab_size: int) -> Tokenizer:
    from tiny_transformer.text.bpe import BpeTokenizer
    from tiny_transformer.text.bpe_library import require_library

    require_library()
    corpus = resolve_corpus(config.corpus)
    parts = {
        "version": FORMAT_VERSION,
        "source": corpus.sha256(),
        "sizes": [document.n_bytes for document in corpus.documents],
        "recipe": corpus.recipe,
        "errors": config.errors,
        "val_fraction": config.val_fraction,
        "split_seed": config.split_seed,
        "vocab_size": vocab_size,
        "library": importlib.metadata.version("tokenizers"),
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "tokenizers" / f"{key[:32]}.json"
    if path.is_file():
        try:
            return BpeTokenizer.load(path)
        except VocabularyError:
            pass  # damaged: it is made again
    try:
        made = BpeTokenizer.train(training_texts(corpus, config), vocab_size)
    except DataError as error:
        raise DataError(f"The corpus {config.corpus!r}: {error}") from None
    try:
        files.make_directory(path.parent)
        made.save(path)
    except StorageError as error:
        raise StorageError(
            f"{error} Tokenizers are kept in {cache_folder()}; set {VARIABLE} to use another "
            "folder."
        ) from error
    return made
