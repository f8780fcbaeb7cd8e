"""From a config to its tokenizer, and a corpus prepared and split with it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.text import foreign_tokenizers as foreign

from tiny_transformer.config import DataConfig
from tiny_transformer.data import prepare, streams, tokenizers
from tiny_transformer.data.corpora import Corpus, resolve_corpus
from tiny_transformer.data.dataset import split_corpus, validation_span
from tiny_transformer.data.streams import Document
from tiny_transformer.data.tokenizers import split_for, tokenizer_of, training_texts
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import (
    ConfigError,
    DataError,
    StorageError,
    VocabularyError,
)
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.tokenizer import CharTokenizer

# The validation part, at the end, is a word that the rest lacks.
TEXT = foreign.TEXT * 8 + "quizzical " * 60
BPE = BpeTokenizer.train([foreign.TEXT], 300)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_bytes(TEXT.encode())
    return path


def bpe_of(corpus: Path, vocab_size: int = 300, **settings: Any) -> BpeTokenizer:
    config = DataConfig(corpus=str(corpus), tokenizer="bpe", **settings)
    found = tokenizer_of(config, vocab_size)
    assert isinstance(found, BpeTokenizer)
    return found


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "tokenizers").iterdir())


def test_characters_are_characters() -> None:
    assert tokenizer_of(DataConfig(), 99) == CharTokenizer()
    assert tokenizer_of(DataConfig(transliterate=True), 99) == CharTokenizer(transliterate=True)


@pytest.mark.requirement("tokenizers.training-part")
def test_byte_pairs_are_found_in_the_training_part_alone(corpus: Path) -> None:
    train = TEXT.encode()[: validation_span(len(TEXT.encode()), 0.05, None)[0]].decode()
    found = bpe_of(corpus)
    assert found == BpeTokenizer.train([train], 300)
    assert found != BpeTokenizer.train([TEXT], 300)


@pytest.mark.requirement("tokenizers.training-part")
@given(
    st.text(st.sampled_from("ab é中😀\n"), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.none() | st.integers(0, 9),
    st.integers(1, 9),
)
def test_the_training_texts_are_the_bytes_outside_of_the_validation_part(
    text: str, fraction: float, seed: int | None, chunk: int
) -> None:
    data = text.encode()
    corpus = Corpus("c", (Document("c", data),))
    config = DataConfig(val_fraction=fraction, split_seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        texts = Corpus.texts
        patch.setattr(Corpus, "texts", lambda self, errors: texts(self, errors, chunk_size=chunk))
        found = "".join(training_texts(corpus, config)).encode()
    start, end = validation_span(len(data), fraction, seed)
    while start < len(data) and data[start] & 0xC0 == 0x80:
        start += 1  # a character that the border cuts is on the training side
    while 0 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    assert found == data[:start] + data[end:]


@pytest.mark.requirement("tokenizers.cached")
def test_it_is_trained_once_and_kept(
    corpus: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bpe_of(corpus)
    assert len(kept(cache_folder)) == 1

    def never(texts: object, vocab_size: int) -> BpeTokenizer:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(BpeTokenizer, "train", never)
        assert bpe_of(corpus) == found
    file = kept(cache_folder)[0]
    file.write_bytes(file.read_bytes()[:-100])
    assert bpe_of(corpus) == found  # a damaged one is made again
    assert kept(cache_folder) == [file]


@pytest.mark.requirement("tokenizers.cached")
def test_another_text_size_split_or_library_is_another_file(
    corpus: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpe_of(corpus)
    bpe_of(corpus, 301)
    bpe_of(corpus, val_fraction=0.2)
    bpe_of(corpus, split_seed=3)
    corpus.write_bytes(TEXT.encode() + b"!")
    bpe_of(corpus)
    monkeypatch.setattr(tokenizers.importlib.metadata, "version", lambda name: "99")
    bpe_of(corpus)
    assert len(kept(cache_folder)) == 6


def test_a_cache_that_cannot_be_written_is_told(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "os_write", full)
    with pytest.raises(StorageError, match="TINY_TRANSFORMER_CACHE"):
        bpe_of(corpus)


@pytest.mark.requirement("tokenizers.refused")
def test_what_is_neither_a_name_nor_a_tokenizer_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bpe'"):
        tokenizer_of(DataConfig(tokenizer="bpee"), 300)
    with pytest.raises(VocabularyError, match="not whole JSON"):
        tokenizer_of(DataConfig(tokenizer=str(corpus)), 300)
    with pytest.raises(DataError, match=r"corpus.txt': The text gives .* only \d+ tokens"):
        bpe_of(corpus, 5000)


def test_a_path_leads_to_a_tokenizer(tmp_path: Path) -> None:
    BPE.save(tmp_path / "vocab.json")
    for given_path in (tmp_path, tmp_path / "vocab.json"):
        assert tokenizer_of(DataConfig(tokenizer=str(given_path)), 1000) == BPE


@pytest.mark.requirement("tokenizers.missing-package")
def test_a_missing_package_is_told_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(VocabularyError, match=r"tiny-transformer\[bpe\]"):
        tokenizer_of(DataConfig(corpus="no such corpus", tokenizer="bpe"), 300)


@pytest.mark.requirement("tokenizers.round-trip")
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_prepared_corpus_is_the_file_byte_for_byte(
    corpus: Path, cache_folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CRLF, tabs and whatever is not ASCII; and it does not depend on how the file is read."""
    texts = Corpus.texts
    monkeypatch.setattr(
        Corpus,
        "texts",
        lambda self, errors, observe: texts(self, errors, chunk_size=chunk, observe=observe),
    )
    shutil.rmtree(cache_folder, ignore_errors=True)
    result = prepare(DataConfig(corpus=str(corpus)), BPE)
    assert result.tokens.dtype == np.uint16
    assert np.array_equal(result.tokens, BPE.encode(TEXT))
    assert BPE.decode(result.tokens).encode() == corpus.read_bytes()
    assert result.stats.unknown == {} and sum(result.stats.counts) == len(result.tokens)
    assert streams.CHUNK == 1 << 20


def test_a_corpus_that_grows_while_it_is_read_is_refused(corpus: Path) -> None:
    def grow(done: int, total: int) -> None:
        with corpus.open("ab") as stream:
            stream.write(b" more" * 1000)

    corpus.write_bytes(b"some words " * 300_000)
    with pytest.raises(DataError, match="changed while it was being read"):
        prepare(DataConfig(corpus=str(corpus)), BPE, progress=grow)


@pytest.mark.requirement("tokenizers.split")
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.integers(0, 4), min_size=6, max_size=6),
    st.floats(0.01, 0.99),
    st.none() | st.integers(0, 5),
    st.integers(1, 50),
)
def test_the_validation_part_begins_and_ends_at_the_borders_nearest_to_its_place(
    ids: list[int], sizes: list[int], fraction: float, seed: int | None, chunk: int
) -> None:
    tokens, lengths = np.array(ids, np.uint16), np.array(sizes)
    borders = np.array([0, *np.cumsum(lengths[tokens])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiny_transformer.data.dataset._CHUNK", chunk)
        split = split_corpus(tokens, fraction, seed, byte_lengths=lengths)
    start, end = (np.abs(borders - place).argmin() for place in _span(borders, fraction, seed))
    assert np.array_equal(split.validation, tokens[start:end])
    assert np.array_equal(
        np.concatenate([*split.train, tokens[:0]]), np.delete(tokens, range(start, end))
    )


def _span(borders: np.ndarray, fraction: float, seed: int | None) -> tuple[int, int]:
    return validation_span(int(borders[-1]), fraction, seed)


@pytest.mark.requirement("tokenizers.split")
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_tokenizers_keep_the_same_text_for_validation(tmp_path: Path, seed: int | None) -> None:
    text = "".join(c for c in TEXT if c.isascii() and c != "\r")
    (tmp_path / "ascii.txt").write_bytes(text.encode())
    config = DataConfig(corpus=str(tmp_path / "ascii.txt"), split_seed=seed, val_fraction=0.1)
    found = []
    for tokenizer in (CharTokenizer(), BPE):
        split = split_for(prepare(config, tokenizer).tokens, config, tokenizer)
        before = tokenizer.decode(split.train[0])
        found.append((len(before), tokenizer.decode(split.validation)))
    longest = int(BPE.byte_lengths.max())
    assert abs(found[0][0] - found[1][0]) <= longest / 2
    assert abs(len(found[0][1]) - len(found[1][1])) <= longest
    assert found[0][1][longest:-longest] in found[1][1]


def test_characters_are_split_by_their_number_as_ever(corpus: Path) -> None:
    config = DataConfig(corpus=str(corpus), split_seed=4)
    tokens = prepare(config, CharTokenizer()).tokens
    by_number = split_corpus(tokens, config.val_fraction, 4)
    by_config = split_for(tokens, config, CharTokenizer())
    assert np.array_equal(by_number.validation, by_config.validation)
    assert len(by_number.validation) == round(len(tokens) * 0.05)
    assert resolve_corpus(str(corpus)).n_bytes == len(TEXT.encode())
