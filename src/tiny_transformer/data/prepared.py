"""A corpus as a token file: encoded once, then memory-mapped.

A prepared corpus is a folder in the cache with `tokens.bin` (raw, uint8 up to 256 tokens,
uint16 up to 65,536, else uint32) and `corpus.json` (what it was made from, and its
statistics). The folder's name is a hash of the source bytes, the tokenizer and the options, so
a changed text or tokenizer is another folder and nothing is ever out of date. Each start reads
the source and the tokens once to hash them, so that a damaged file is noticed and made again;
only the first start encodes the source, a chunk at a time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiny_transformer.config.data import DataConfig
from tiny_transformer.data.cache import VARIABLE, cache_folder
from tiny_transformer.data.corpora import Corpus, resolve_corpus
from tiny_transformer.data.streams import Errors
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import DataError, StorageError
from tiny_transformer.text.normalize import unify_newlines
from tiny_transformer.text.tokenizer import Tokenizer

FORMAT = "tiny_transformer.prepared_corpus"
FORMAT_VERSION = 2
MOST_UNKNOWN = 1000
"""Distinct unknown characters that are counted one by one."""

Progress = Callable[[int, int], None]
"""Called with the bytes of the source that are done, and all of them."""


@dataclass(frozen=True)
class CorpusStats:
    """What was counted while a corpus was prepared.

    Attributes:
        n_bytes: size of the source.
        n_chars: characters of the text; CRLF counts as one.
        n_lines: lines of the text.
        n_tokens: length of the token file.
        counts: how often each token id occurs.
        unknown: unknown characters with their counts, the most frequent first.
        unknown_rest: occurrences of unknown characters that `unknown` has no room for.
    """

    n_bytes: int
    n_chars: int
    n_lines: int
    n_tokens: int
    counts: tuple[int, ...]
    unknown: dict[str, int]
    unknown_rest: int


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus that is ready to be cut into windows.

    Attributes:
        name: the corpus name or path.
        tokens: `(N,)` uint8, uint16 or uint32, read-only, memory-mapped.
        fingerprint: SHA-256 (hex) that changes with the text, the tokenizer or the options.
        source_sha256: SHA-256 (hex) of the source bytes.
        stats: what was counted.
        folder: where the files lie.
    """

    name: str
    tokens: np.memmap
    fingerprint: str
    source_sha256: str
    stats: CorpusStats
    folder: Path


def prepare(
    config: DataConfig, tokenizer: Tokenizer, *, progress: Progress | None = None
) -> PreparedCorpus:
    """Return the corpus of `config` as tokens, preparing it if it is not in the cache.

    Memory does not grow with the corpus. Several processes may prepare at once. A cache
    entry that is damaged is made again.

    Args:
        config: `corpus` and `errors` are used.
        tokenizer: turns text into ids; it decides on transliteration.
        progress: called with the bytes done and the size of the source.

    Raises:
        DataError: the corpus cannot be found or read, or is not text.
        StorageError: the cache cannot be written; nothing is left behind.
    """
    corpus = resolve_corpus(config.corpus)
    source = corpus.sha256()
    fingerprint = _fingerprint(corpus, source, tokenizer, config)
    folder = cache_folder() / "prepared" / fingerprint[:32]
    ready = _open(folder, corpus.name, fingerprint, source)
    if ready is not None:
        return ready
    try:
        with files.staged_directory(folder) as staged:
            _write(staged, corpus, source, fingerprint, tokenizer, config, progress)
    except StorageError as error:
        ready = _made_by_another(error, folder, corpus.name, fingerprint, source)
        if ready is not None:
            return ready
        raise StorageError(
            f"{error} Prepared corpora are kept in {cache_folder()}; set {VARIABLE} to use "
            "another folder."
        ) from error
    ready = _await(folder, corpus.name, fingerprint, source)
    if ready is None:
        raise StorageError(
            f"{folder} was written, but what is read back differs. Check the disk, or set "
            f"{VARIABLE} to a folder on another one."
        )
    return ready


def is_prepared(config: DataConfig, tokenizer: Tokenizer) -> bool:
    """Return whether `prepare` would find the corpus in the cache."""
    try:
        corpus = resolve_corpus(config.corpus)
        source = corpus.sha256()
    except DataError:
        return False
    fingerprint = _fingerprint(corpus, source, tokenizer, config)
    folder = cache_folder() / "prepared" / fingerprint[:32]
    return _open(folder, corpus.name, fingerprint, source, thoroughly=False) is not None


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the type of a token file: uint8 up to 256 tokens, uint16 up to 65,536, else uint32."""
    return np.dtype("<u1" if vocab_size <= 256 else "<u2" if vocab_size <= 1 << 16 else "<u4")


def _fingerprint(corpus: Corpus, source: str, tokenizer: Tokenizer, config: DataConfig) -> str:
    parts = {
        "format": [FORMAT, FORMAT_VERSION],
        "source": source,
        "sizes": [document.n_bytes for document in corpus.documents],
        "recipe": corpus.recipe,
        "tokenizer": tokenizer.fingerprint,
        "errors": config.errors,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(
    staged: Path,
    corpus: Corpus,
    source: str,
    fingerprint: str,
    tokenizer: Tokenizer,
    config: DataConfig,
    progress: Progress | None,
) -> None:
    dtype = token_dtype(tokenizer.vocab_size)
    digest = hashlib.sha256()
    done, n_bytes = 0, corpus.n_bytes

    def observe(chunk: bytes) -> None:
        nonlocal done
        digest.update(chunk)
        done += len(chunk)

    count = _Counter(tokenizer)
    with files.Writer(staged / "tokens.bin") as writer:
        texts = _while_not_growing(corpus, config.errors, observe, lambda: done)
        for text, found in tokenizer.encode_stream(texts):
            ids = found.astype(dtype, copy=False)
            writer.write(ids.data)
            count.add(text, ids)
            if progress:
                progress(min(done, n_bytes), n_bytes)
        writer.sync()
    if digest.hexdigest() != source:
        raise DataError(
            f"{corpus.name} changed while it was being read. Try again when it is finished."
        )
    if not count.n_tokens:
        raise DataError(f"{corpus.name} holds no text; give a file with text in it.")
    value = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "corpus": corpus.name,
        "dtype": dtype.name,
        "fingerprint": fingerprint,
        "source_sha256": source,
        "tokenizer": tokenizer.fingerprint,
        "errors": config.errors,
        **asdict(count.stats(n_bytes)),
    }
    value["tokens_sha256"] = _sha256_of_file(staged / "tokens.bin")
    files.write_json(staged / "corpus.json", {**value, "sha256": _seal(value)})


def _while_not_growing(
    corpus: Corpus, errors: Errors, observe: Callable[[bytes], object], done: Callable[[], int]
) -> Iterator[str]:
    """Yield the text, but not for ever where a file grows as fast as it is read."""
    most = corpus.n_bytes + len(corpus.documents)
    for text in corpus.texts(errors, observe=observe):
        yield text
        if done() > most:
            return


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(value: dict[str, Any]) -> str:
    """Return the SHA-256 of what `corpus.json` says, its own entry `sha256` left out."""
    rest = {name: inner for name, inner in value.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class _Counter:
    """Counts tokens, lines and unknown characters, a piece of text at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
        self.unknown: Counter[str] = Counter()
        self.n_chars = self.n_lines = self.n_tokens = self.unknown_rest = 0
        self.ends_line = True

    def add(self, text: str, ids: np.ndarray) -> None:
        text = unify_newlines(text)
        counts = np.bincount(ids, minlength=len(self.counts))
        self.counts += counts
        self.n_chars += len(text)
        self.n_tokens += len(ids)
        self.n_lines += text.count("\n")
        self.ends_line = text.endswith("\n")
        if self._has_unknown(text, counts):
            for character, times in Counter(self.tokenizer.find_unknown(text)).items():
                if character in self.unknown or len(self.unknown) < MOST_UNKNOWN:
                    self.unknown[character] += times
                else:
                    self.unknown_rest += times

    def _has_unknown(self, text: str, counts: np.ndarray) -> bool:
        unknown = self.tokenizer.unk_id
        return not text.isascii() if unknown is None else bool(counts[unknown])

    def stats(self, n_bytes: int) -> CorpusStats:
        return CorpusStats(
            n_bytes=n_bytes,
            n_chars=self.n_chars,
            n_lines=self.n_lines + (not self.ends_line),
            n_tokens=self.n_tokens,
            counts=tuple(self.counts.tolist()),
            unknown=dict(self.unknown.most_common()),
            unknown_rest=self.unknown_rest,
        )


def _open(
    folder: Path, name: str, fingerprint: str, source: str, *, thoroughly: bool = True
) -> PreparedCorpus | None:
    """Return the corpus in `folder`, or None where it is missing or damaged.

    Only a thorough look reads all tokens, to find a changed bit among them.
    """
    try:
        value = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        if (value["format"], value["version"]) != (FORMAT, FORMAT_VERSION):
            return None
        if (value["fingerprint"], value["source_sha256"]) != (fingerprint, source):
            return None
        if value["sha256"] != _seal(value):
            return None
        fields = {field: value[field] for field in CorpusStats.__dataclass_fields__}
        stats = CorpusStats(**{**fields, "counts": tuple(fields["counts"])})
        dtype = np.dtype(value["dtype"]).newbyteorder("<")
        path = folder / "tokens.bin"
        if path.stat().st_size != stats.n_tokens * dtype.itemsize or sum(stats.counts) <= 0:
            return None
        if thoroughly and _sha256_of_file(path) != value["tokens_sha256"]:
            return None
        tokens = np.memmap(path, dtype=dtype, mode="r")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return PreparedCorpus(name, tokens, fingerprint, source, stats, folder)


def _made_by_another(
    error: StorageError, folder: Path, name: str, fingerprint: str, source: str
) -> PreparedCorpus | None:
    """Return what another process put in place at the same moment, if that is what failed."""
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno not in (
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTEMPTY,
    ):
        return None
    return _await(folder, name, fingerprint, source)


def _await(folder: Path, name: str, fingerprint: str, source: str) -> PreparedCorpus | None:
    """Open what was just written, by this process or by another.

    While another process puts its copy in place of ours, the folder is missing between its
    two renames, and the old one loses its files; so a first failure says nothing yet.
    """
    for _ in range(20):
        ready = _open(folder, name, fingerprint, source)
        if ready is not None:
            return ready
        time.sleep(0.05)
    return None
