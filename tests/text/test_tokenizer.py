from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import StorageError, VocabularyError
from tiny_transformer.text import PLACEHOLDER, CharTokenizer, normalize_text

any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from("\r\n\t~ é—“ﬁ\u0301"))


@pytest.mark.requirement("text.vocabulary")
def test_the_vocabulary_has_99_tokens_in_code_order() -> None:
    tokenizer = CharTokenizer()
    assert tokenizer.vocab_size == len(tokenizer.tokens) == 99
    assert tokenizer.tokens[:5] == ("<PAD>", "<UNK>", "\t", "\n", " ")
    assert tokenizer.tokens[98] == "~"
    assert list(tokenizer.tokens[2:]) == sorted(tokenizer.tokens[2:])
    assert [int(tokenizer.encode(token)[0]) for token in tokenizer.tokens[2:]] == [*range(2, 99)]


@pytest.mark.requirement("text.special-tokens")
def test_the_special_tokens_are_pad_0_and_unk_1() -> None:
    tokenizer = CharTokenizer()
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.special_ids) == (0, 1, (0, 1))
    assert tokenizer.encode("é\x00\ud800😀").tolist() == [1, 1, 1, 1]
    assert tokenizer.decode([0, 1, 0]) == PLACEHOLDER
    # The names of special tokens are ordinary text.
    assert tokenizer.decode(tokenizer.encode("<PAD><UNK>")) == "<PAD><UNK>"


@pytest.mark.requirement("text.roundtrip")
@given(any_text, st.booleans())
def test_decoding_what_was_encoded_gives_the_normalised_text(text: str, flag: bool) -> None:
    tokenizer = CharTokenizer(transliterate=flag)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint8
    assert tokenizer.decode(ids) == normalize_text(text, transliterate=flag)


@pytest.mark.requirement("text.roundtrip")
@pytest.mark.parametrize("before", [65534, 65535, 65536, 65537, 131072])
@pytest.mark.parametrize("middle", ["é", "\r\n", "b", "\r", "—😀"])
def test_a_text_longer_than_a_chunk_is_encoded_whole(before: int, middle: str) -> None:
    text = "a" * before + middle + "c" * 70000
    for flag in (False, True):
        tokenizer = CharTokenizer(flag)
        assert tokenizer.decode(tokenizer.encode(text)) == normalize_text(text, transliterate=flag)


@pytest.mark.requirement("text.encode-vectorised")
def test_encoding_ascii_runs_no_python_for_single_characters() -> None:
    def python_steps(text: str) -> int:
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        sys.setprofile(count)  # sees every call, also of what is written in C
        try:
            tokenizer.encode(text)
        finally:
            sys.setprofile(None)
        return steps

    tokenizer = CharTokenizer()
    line = "To be, or not to be, that is the question:\n\tWhether 'tis nobler\n"
    assert python_steps(line * 30_000) < 1000  # two million characters; speed is benchmarked


@pytest.mark.requirement("text.roundtrip")
@pytest.mark.parametrize(
    "convert",
    [list, tuple, iter, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.uint8)],
)
def test_decode_takes_arrays_tensors_and_sequences(convert: Callable[..., Any]) -> None:
    tokenizer = CharTokenizer()
    assert tokenizer.decode(convert(tokenizer.encode("Hello").tolist())) == "Hello"


def test_decode_takes_scalars_of_numpy_and_torch_and_no_ids_at_all() -> None:
    tokenizer = CharTokenizer()
    assert tokenizer.decode([np.int64(4), np.uint8(98)]) == " ~"
    assert tokenizer.decode(iter(torch.tensor([4, 98]))) == " ~"
    for nothing in ([], np.array([]), torch.tensor([])):
        assert tokenizer.decode(nothing) == ""
    assert tokenizer.encode("").shape == (0,)


@pytest.mark.requirement("text.special-tokens")
@pytest.mark.parametrize(
    ("ids", "named", "position"),
    [
        ([5, 99], "99", 1),
        ([5, 6, -1], "-1", 2),
        ([10**30], str(10**30), 0),
        (np.array([4, 200], np.uint8), "200", 1),
        (np.array([4, -7]), "-7", 1),
        (np.array([2**64 - 1], np.uint64), str(2**64 - 1), 0),
        (torch.tensor([4, 5, 500]), "500", 2),
        ([4, 5.0], "5.0", 1),
        ([4, "a"], "'a'", 1),
        ([4, None], "None", 1),
        ([True], "True", 0),
        (np.array([4.0]), "4.0", 0),
        (torch.tensor([4.5]), "4.5", 0),
        ("ab", "'a'", 0),
    ],
)
def test_an_id_outside_the_vocabulary_is_named_with_its_position(
    ids: Any, named: str, position: int
) -> None:
    with pytest.raises(VocabularyError) as caught:
        CharTokenizer().decode(ids)
    assert f"Id {named} at position {position}" in str(caught.value)


def test_decode_points_to_decode_batch_for_several_rows() -> None:
    with pytest.raises(VocabularyError, match="decode_batch"):
        CharTokenizer().decode(np.zeros((2, 3), np.int64))


@pytest.mark.requirement("text.special-tokens")
def test_a_batch_is_padded_on_the_right_and_comes_back() -> None:
    tokenizer = CharTokenizer()
    texts = ["Hello", "", "a\n"]
    batch = tokenizer.encode_batch(texts)
    assert batch.dtype == np.int64
    assert batch.shape == (3, 5)
    assert batch[2].tolist() == [*tokenizer.encode("a\n"), 0, 0, 0]
    assert tokenizer.decode_batch(batch) == texts
    assert tokenizer.decode_batch(torch.from_numpy(batch)) == texts
    assert tokenizer.encode_batch([]).shape == (0, 0)


def test_unknown_characters_are_distinct_and_in_order() -> None:
    assert CharTokenizer().unknown_characters("a—é—中é") == ["—", "é", "中"]
    assert CharTokenizer(transliterate=True).unknown_characters("a—é—中é") == ["中"]


@pytest.mark.requirement("text.vocabulary")
@pytest.mark.parametrize("flag", [False, True])
def test_a_saved_vocabulary_loads_to_identical_behaviour(tmp_path: Path, flag: bool) -> None:
    tokenizer = CharTokenizer(transliterate=flag)
    path = tmp_path / "vocab.json"
    tokenizer.save(path)
    loaded = CharTokenizer.load(path)
    assert loaded == tokenizer
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("é—a").tolist() == tokenizer.encode("é—a").tolist()
    assert '{"id": 3, "token": "\\n"}' in path.read_text(encoding="utf-8").split(",\n    ")
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_the_fingerprint_tells_transliteration_apart_and_is_stable() -> None:
    assert CharTokenizer().fingerprint != CharTokenizer(transliterate=True).fingerprint
    assert CharTokenizer().fingerprint == CharTokenizer().fingerprint
    assert len(CharTokenizer().fingerprint) == 64


def _damaged(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        value = json.loads(data)
        changed = change(value)
        return json.dumps(value if changed is None else changed).encode()

    return damage


def _without_version(value: dict[str, Any]) -> None:
    del value["version"]


def _swap(value: dict[str, Any]) -> None:
    tokens = value["tokens"]
    tokens[10]["token"], tokens[11]["token"] = tokens[11]["token"], tokens[10]["token"]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "not whole JSON"),
    "truncated": (lambda data: data[: len(data) // 2], "not whole JSON"),
    "not JSON": (lambda data: b"hello", "not whole JSON"),
    "not UTF-8": (lambda data: data.replace(b"PAD", b"P\xff\xfe"), "not UTF-8"),
    "deep": (lambda data: b"[" * 100_000, "not sound JSON|not whole JSON"),
    "a list": (_damaged(lambda v: [v]), "holds a list"),
    "format": (_damaged(lambda v: v.update(format="gpt2")), "format is 'gpt2'"),
    "version": (_damaged(lambda v: v.update(version=2)), "version is 2"),
    "version true": (_damaged(lambda v: v.update(version=True)), "version is True"),
    "no version": (_damaged(_without_version), "'version' is missing"),
    "flag": (_damaged(lambda v: v.update(transliterate=1)), "transliterate is 1"),
    "extra": (_damaged(lambda v: v.update(merges=[])), "'merges'"),
    "tokens": (_damaged(lambda v: v.update(tokens={})), "tokens is a dict"),
    "missing": (_damaged(lambda v: v["tokens"].pop(50) and None), "entry 50 of tokens"),
    "last missing": (_damaged(lambda v: v["tokens"].pop() and None), "98 tokens; expected 99"),
    "one more": (_damaged(lambda v: v["tokens"].append({"id": 99, "token": "é"})), "100 tokens"),
    "reordered": (_damaged(_swap), "entry 10 of tokens"),
    "duplicate": (
        _damaged(lambda v: v["tokens"].__setitem__(8, v["tokens"][7])),
        "duplicate of entry 7",
    ),
    "id": (_damaged(lambda v: v["tokens"][1].update(id=True)), "entry 1 of tokens"),
    "token type": (_damaged(lambda v: v["tokens"][9].update(token=9)), "entry 9 of tokens"),
    "entry type": (_damaged(lambda v: v["tokens"].__setitem__(4, " ")), "entry 4 of tokens"),
    "name twice": (lambda data: data.replace(b"{", b'{"version": 1,', 1), "twice"),
}


@pytest.mark.requirement("text.vocabulary-refused")
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_vocabulary_is_refused_with_the_first_difference(
    tmp_path: Path, name: str
) -> None:
    damage, reason = DAMAGES[name]
    path = tmp_path / "vocab.json"
    CharTokenizer().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VocabularyError, match=reason) as caught:
        CharTokenizer.load(path)
    assert str(path) in str(caught.value)
    assert "vocab.json of an undamaged copy" in str(caught.value)


@pytest.mark.requirement("text.vocabulary-refused")
def test_a_vocabulary_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    CharTokenizer().save(path)
    for length in reversed(range(len(path.read_bytes().rstrip()))):
        os.truncate(path, length)
        with pytest.raises(VocabularyError):
            CharTokenizer.load(path)


@pytest.mark.requirement("text.vocabulary-refused")
def test_a_missing_vocabulary_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="no such file"):
        CharTokenizer.load(tmp_path / "none.json")
    with pytest.raises(VocabularyError, match="cannot be read"):
        CharTokenizer.load(tmp_path)


def test_a_full_disk_leaves_the_old_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vocab.json"
    CharTokenizer().save(path)

    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "os_write", full)
    with pytest.raises(StorageError, match="disk is full"):
        CharTokenizer(transliterate=True).save(path)
    assert CharTokenizer.load(path) == CharTokenizer()
