from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.text import foreign_tokenizers as foreign
from tokenizers import Tokenizer as Library

from tiny_transformer.runtime.errors import DataError, VocabularyError
from tiny_transformer.text import bpe, pieces
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.load import load_tokenizer
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer

OURS = BpeTokenizer.train([foreign.TEXT], 320)
FOREIGN = {
    "gpt2": foreign.gpt2(),
    "llama3": foreign.llama3(),
    "smollm": foreign.smollm(),
    "prefixed": foreign.prefixed(),
    "unsplit": foreign.unsplit(),
    "llama2": foreign.llama2(),
}
READ = {name: BpeTokenizer.from_json(made.to_str()) for name, made in FOREIGN.items()}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_WORDS = [*"aé.1' \n\r\t中😀\u0301\xa0", "  ", " \n", "\n\n", "the", " king", "don't", foreign.END]
LIKELY = st.lists(st.sampled_from(_WORDS)).map("".join)


def train_elsewhere(texts: list[str], **variables: str) -> str:
    """Train in a process of its own; return the tokenizer's fingerprint."""
    code = (
        "import json, sys; from tiny_transformer.text.bpe import BpeTokenizer;"
        "print(BpeTokenizer.train(json.loads(sys.stdin.read()), 320).fingerprint)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    return found.stdout.strip()


@pytest.mark.requirement("tokenizers.round-trip")
@given(ANY_TEXT | LIKELY)
@example("<|endoftext|>\x00\r\n\r \u2028 \ufeff\U0010ffff")
@example("")
def test_every_text_comes_back_byte_for_byte(text: str) -> None:
    ids = OURS.encode(text)
    assert ids.dtype == np.uint16 and ids.ndim == 1
    assert OURS.decode(ids) == text
    assert OURS.find_unknown(text) == OURS.unknown_characters(text) == []
    assert OURS.byte_lengths[ids].sum() == len(text.encode())
    assert OURS.char_lengths[ids].sum() == len(text)


def test_lone_surrogates_which_utf8_lacks_are_unknown() -> None:
    assert OURS.decode(OURS.encode("a\ud800b")) == "a\ufffdb"
    assert OURS.find_unknown("a\ud800b\udfff\ud800") == ["\ud800", "\udfff", "\ud800"]
    assert OURS.unknown_characters("\ud800é\ud800") == ["\ud800"]


def test_the_protocol_is_kept_by_both_kinds() -> None:
    kinds: list[Tokenizer] = [OURS, CharTokenizer()]
    for tokenizer in kinds:
        assert len(tokenizer.byte_lengths) == len(tokenizer.char_lengths) == tokenizer.vocab_size
        assert set(tokenizer.end_ids) <= set(tokenizer.special_ids)
        assert tokenizer.unit in ("character", "token")
        stream = tokenizer.stream()
        assert "".join(map(stream.add, tokenizer.encode("To be\n").tolist())) == "To be\n"
        assert stream.end() == ""


def test_the_first_tokens_are_the_bytes_and_the_rest_common_pairs() -> None:
    assert OURS.vocab_size == 320 and OURS.unk_id is None
    assert OURS.special_ids == OURS.end_ids == ()
    assert {OURS.token_bytes(token) for token in range(256)} == {bytes([b]) for b in range(256)}
    assert all(len(OURS.token_bytes(token)) > 1 for token in range(256, 320))
    assert {b" the", b"   "} <= {OURS.token_bytes(token) for token in range(256, 320)}
    assert len(OURS.encode(foreign.TEXT)) < 0.6 * len(foreign.TEXT.encode())


@pytest.mark.requirement("tokenizers.deterministic")
def test_training_gives_the_same_json_with_any_threads_and_any_cut_of_the_text() -> None:
    texts = [foreign.TEXT, "".join(chr(0x4E00 + i % 300) for i in range(3000)), foreign.TEXT * 9]
    again = BpeTokenizer.train(["".join(texts)], 320)
    found = {
        BpeTokenizer.train(texts, 320).fingerprint,
        again.fingerprint,
        BpeTokenizer.train(iter("".join(texts)), 320).fingerprint,
        train_elsewhere(texts, TOKENIZERS_PARALLELISM="false"),
        train_elsewhere(texts, TOKENIZERS_PARALLELISM="true", RAYON_NUM_THREADS="4"),
    }
    assert len(found) == 1
    assert json.dumps(again.spec) == json.dumps(BpeTokenizer.train(texts, 320).spec)


def test_too_short_a_text_is_refused_with_the_number_that_it_gives() -> None:
    with pytest.raises(DataError, match=r"only 259 tokens, and 1000.*--model.vocab-size 259"):
        BpeTokenizer.train(["abcd abcd"], 1000)
    assert BpeTokenizer.train(["abcd abcd"], 259).vocab_size == 259
    with pytest.raises(DataError, match="at least 257 tokens"):
        BpeTokenizer.train(["abcd"], 256)


@pytest.mark.requirement("tokenizers.foreign")
@pytest.mark.parametrize("name", list(FOREIGN))
@settings(max_examples=60)
@given(text=LIKELY | ANY_TEXT)
@example(text=foreign.TEXT)
@example(text="")
@example(text=f"a {foreign.END}b </s>kingdom come")
def test_another_programs_tokenizer_gives_the_ids_that_the_library_gives(
    name: str, text: str
) -> None:
    """Special tokens are not added, and not found in a text."""
    theirs: Any = Library.from_str(FOREIGN[name].to_str())
    theirs.no_truncation()
    theirs.encode_special_tokens = True
    expected = theirs.encode(text, add_special_tokens=False).ids
    ours = READ[name].encode(text)
    assert ours.tolist() == expected
    assert not set(expected) & set(READ[name].special_ids)
    assert READ[name].decode(ours) == theirs.decode(expected)


@pytest.mark.requirement("tokenizers.chunks")
@pytest.mark.parametrize("name", [*FOREIGN, "ours"])
@settings(max_examples=60)
@given(st.lists(LIKELY | ANY_TEXT, max_size=8), st.integers(1, 40), st.randoms())
def test_a_text_in_pieces_has_the_ids_of_the_whole(
    name: str, parts: list[str], piece: int, random: Any
) -> None:
    """However the text comes, and however short the pieces are that are encoded at once."""
    tokenizer = READ.get(name, OURS)
    text = "".join(parts) + "the king. 'tis\n the\nking " * random.randrange(3)
    cuts = sorted(random.randrange(len(text) + 1) for _ in range(random.randrange(6)))
    given_pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = Library.encode(tokenizer._inner, text, add_special_tokens=False).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", piece)
        found = list(tokenizer.encode_stream(given_pieces))
    assert "".join(part for part, _ in found) == text
    assert [i for _, ids in found for i in ids.tolist()] == expected


@pytest.mark.requirement("tokenizers.chunks")
def test_memory_is_bounded_where_a_text_has_no_place_to_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces, "MOST_HELD", 100)
    longest = max(len(part) for part, _ in OURS.encode_stream("x" * 30 for _ in range(50)))
    assert longest == 120
    assert max(len(part) for part, _ in OURS.encode_stream(["a b " * 10] * 20)) <= 41


@pytest.mark.requirement("tokenizers.stream")
@pytest.mark.parametrize("name", [*FOREIGN, "ours"])
@given(data=st.data())
def test_tokens_one_by_one_spell_what_they_spell_together(name: str, data: st.DataObject) -> None:
    tokenizer = READ.get(name, OURS)
    some = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30)
    ids = data.draw(some | LIKELY.map(lambda text: tokenizer.encode(text).tolist()))
    stream = tokenizer.stream()
    assert "".join(map(stream.add, ids)) + stream.end() == tokenizer.decode(ids)


@pytest.mark.requirement("tokenizers.stream")
def test_the_bytes_of_a_character_wait_for_its_last() -> None:
    stream = OURS.stream()
    first, second, third, fourth = "😀".encode()
    ids = {OURS.token_bytes(token)[0]: token for token in range(256)}
    assert [stream.add(ids[b]) for b in (first, second, third)] == ["", "", ""]
    assert stream.add(ids[fourth]) == "😀"
    assert stream.add(ids[first]) == "" and stream.add(ids[ord("a")]) == "\ufffda"
    assert stream.add(ids[second]) == "\ufffd"
    assert stream.add(ids[first]) == "" and stream.end() == "\ufffd"


def test_a_continuation_keeps_the_space_that_a_text_loses() -> None:
    """Llama 2 puts a space before a text, and takes it off again; not in the middle of one."""
    tokenizer = READ["llama2"]
    ids = tokenizer.encode("the king").tolist()
    assert tokenizer.token_bytes(ids[0]).startswith(b" ")
    assert tokenizer.decode(ids) == "the king"
    assert "".join(map(tokenizer.stream(continues=True).add, ids)) == " the king"


def test_special_tokens_spell_nothing_and_some_end_a_text() -> None:
    tokenizer = READ["gpt2"]
    names = {index: tokenizer.special_name(index) for index in tokenizer.special_ids}
    assert names == {0: foreign.END, 1: "<|im_start|>"} and tokenizer.end_ids == (0,)
    assert tokenizer.decode([0, *tokenizer.encode("a"), 1]) == "a"
    assert tokenizer.byte_lengths[[0, 1]].tolist() == [0, 0]
    assert READ["llama2"].end_ids == (2,) and READ["llama2"].unk_id == 0


def test_an_id_that_has_no_token_is_never_written() -> None:
    spec = json.loads(FOREIGN["gpt2"].to_str())
    spec["added_tokens"].append(spec["added_tokens"][1] | {"id": 348, "content": "<late>"})
    tokenizer = BpeTokenizer.from_json(json.dumps(spec))
    assert tokenizer.vocab_size == 349
    assert tokenizer.special_ids == (0, 1, 345, 346, 347, 348)
    assert tokenizer.label(346) == "'<unused 346>'" and tokenizer.label(348) == "'<late>'"


def test_labels_show_text_bytes_or_a_name() -> None:
    tokenizer = READ["gpt2"]
    labels = {tokenizer.label(token) for token in range(tokenizer.vocab_size)}
    assert {f"'{foreign.END}'", "' the'", "'\\n'", "<F0>", "<9F>"} <= labels
    assert CharTokenizer().label(1) == "'<UNK>'" and CharTokenizer().label(3) == "'\\n'"


def test_bytes_without_a_token_are_unknown() -> None:
    """A vocabulary without a byte that UTF-8 uses; one without 0xFF lacks nothing."""
    spec = json.loads(FOREIGN["llama2"].to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary["gone"] = vocabulary.pop("<0xF0>")
    vocabulary["never"] = vocabulary.pop("<0xFF>")
    lacking = BpeTokenizer.from_json(json.dumps(spec))
    assert lacking.find_unknown("a b😀中\ud800") == ["😀", "\ud800"]
    assert READ["llama2"].find_unknown("a b😀中\ud800") == ["\ud800"]
    assert READ["gpt2"].find_unknown("a b😀中") == []


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([0, 320], "Id 320 at position 1"),
        ([-1], "Id -1 at position 0"),
        ([1.5], "is a float"),
        ([True], "is a bool"),
        (np.zeros((2, 2), np.int64), "one row of ids"),
        (np.array([0.5]), "is a float"),
    ],
)
def test_ids_that_are_none_are_refused(ids: Any, reason: str) -> None:
    with pytest.raises(VocabularyError, match=reason):
        OURS.decode(ids)


def test_ids_may_be_arrays_tensors_or_lists() -> None:
    ids = OURS.encode("the king")
    for given_ids in (ids, torch.tensor(ids.tolist()), ids.tolist(), list(ids)):
        assert OURS.decode(given_ids) == "the king"


@pytest.mark.requirement("tokenizers.saved")
@pytest.mark.parametrize("name", [*FOREIGN, "ours"])
def test_a_saved_tokenizer_loads_to_identical_behaviour(tmp_path: Path, name: str) -> None:
    tokenizer, path = READ.get(name, OURS), tmp_path / "vocab.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert loaded == tokenizer and hash(loaded) == hash(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_ids == tokenizer.special_ids
    assert loaded.encode(foreign.TEXT).tolist() == tokenizer.encode(foreign.TEXT).tolist()
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert repr(tokenizer) == repr(loaded)


def _changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        value = json.loads(data)
        changed = change(value)
        return json.dumps(value if changed is None else changed).encode()

    return damage


def _swap_merges(value: dict[str, Any]) -> None:
    merges = value["tokenizer"]["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "not whole JSON"),
    "not UTF-8": (lambda data: data.replace(b"BPE", b"B\xff\xfe"), "not UTF-8"),
    "deep": (lambda data: b"[" * 100_000, "not sound JSON|not whole JSON"),
    "a list": (_changed(lambda v: [v]), "holds a list"),
    "format": (_changed(lambda v: v.update(format="gpt2")), "format is 'gpt2'"),
    "version": (_changed(lambda v: v.update(version=2)), "version is 2"),
    "version true": (_changed(lambda v: v.update(version=True)), "version is True"),
    "no hash": (_changed(lambda v: v.pop("sha256") and None), "'sha256' is missing"),
    "extra": (_changed(lambda v: v.update(code="x")), "'code'"),
    "merges": (_changed(_swap_merges), "SHA-256 is another"),
    "inside gone": (_changed(lambda v: v.update(tokenizer=None)), "SHA-256 is another"),
    "name twice": (lambda data: data.replace(b"{", b'{"version": 1,', 1), "twice"),
}


@pytest.mark.requirement("tokenizers.refused")
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    damage, reason = DAMAGES[name]
    path = tmp_path / "vocab.json"
    OURS.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VocabularyError, match=reason) as caught:
        BpeTokenizer.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(VocabularyError):
        load_tokenizer(path)


@pytest.mark.requirement("tokenizers.refused")
def test_a_file_cut_or_flipped_anywhere_is_refused(tmp_path: Path) -> None:
    """A flipped bit in the white space of the JSON may change nothing; nothing else passes."""
    path = tmp_path / "vocab.json"
    OURS.save(path)
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 97):
        with pytest.raises(VocabularyError):
            load_tokenizer(path, data[:length])
    for place in range(0, len(data), 41):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(VocabularyError):
            load_tokenizer(path, bytes(flipped))


def _without_byte_level(spec: dict[str, Any]) -> None:
    spec["pre_tokenizer"] = spec["decoder"] = None


FOREIGN_DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "list": (lambda s: [s], "not the JSON of a tokenizer"),
    "no model": (lambda s: s.update(model=3), "not the JSON of a tokenizer"),
    "unigram": (lambda s: s["model"].update(type="Unigram"), "its model is 'Unigram'"),
    "vocab": (lambda s: s["model"].update(vocab=["a"]), "does not map tokens to ids"),
    "negative": (lambda s: s["model"]["vocab"].update(a=-1), "does not map tokens to ids"),
    "huge": (lambda s: s["model"]["vocab"].update(a=1 << 40), "does not map tokens to ids"),
    "added": (lambda s: s.update(added_tokens=[3]), "added_tokens is not an object"),
    "content": (lambda s: s["added_tokens"][0].pop("content") and None, "has no content"),
    "no bytes": (_without_byte_level, "not byte-level"),
    "merges": (lambda s: s["model"].update(merges=["a"]), "tokenizers does not read it"),
    "decoder": (lambda s: s["decoder"].update(type="ByteLevel", add_prefix_space=7), "not read it"),
}


@pytest.mark.requirement("tokenizers.refused")
@pytest.mark.parametrize("name", FOREIGN_DAMAGES)
def test_a_foreign_file_that_is_no_tokenizer_of_ours_is_refused(name: str) -> None:
    change, reason = FOREIGN_DAMAGES[name]
    spec = json.loads(FOREIGN["gpt2"].to_str())
    changed = change(spec)
    text = json.dumps(spec if changed is None else changed)
    with pytest.raises(VocabularyError, match=reason) as caught:
        BpeTokenizer.from_json(text, where="there.json")
    assert str(caught.value).startswith("The tokenizer there.json cannot be used: ")


def test_a_merge_that_is_left_out_at_random_would_be_another_text_each_time() -> None:
    spec = json.loads(FOREIGN["gpt2"].to_str())
    spec["model"]["dropout"] = 0.5
    tokenizer = BpeTokenizer.from_json(json.dumps(spec))
    assert {tuple(tokenizer.encode(foreign.TEXT)) for _ in range(5)} == {
        tuple(READ["gpt2"].encode(foreign.TEXT))
    }


def test_a_file_or_folder_leads_to_its_tokenizer(tmp_path: Path) -> None:
    CharTokenizer(transliterate=True).save(tmp_path / "vocab.json")
    assert load_tokenizer(tmp_path) == CharTokenizer(transliterate=True)
    (tmp_path / "tokenizer.json").write_text(FOREIGN["gpt2"].to_str(), encoding="utf-8")
    assert load_tokenizer(tmp_path) == load_tokenizer(tmp_path / "tokenizer.json") == READ["gpt2"]


@pytest.mark.requirement("tokenizers.refused")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "its format is None"),
        ("[1]", "its format is None"),
        ('{"format": "x", "model": {}}', "its format is 'x'"),
        ('{"!": 0, "the": 1}', "a list of tokens alone"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(VocabularyError, match=reason):
        load_tokenizer(tmp_path / "vocab.json")


def test_a_missing_file_or_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="no such file"):
        load_tokenizer(tmp_path / "none.json")
    with pytest.raises(VocabularyError, match=r"neither tokenizer\.json nor vocab\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    OURS.save(tmp_path / "vocab.json")
    (tmp_path / "vocab.json").chmod(0)
    with pytest.raises(VocabularyError, match="cannot be read"):
        load_tokenizer(tmp_path / "vocab.json")


@pytest.mark.requirement("tokenizers.missing-package")
@pytest.mark.parametrize("use", ["train", "load", "from_json"])
def test_a_missing_package_is_named_with_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    OURS.save(tmp_path / "vocab.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(VocabularyError, match=r"pip install 'tiny-transformer\[bpe\]'"):
        if use == "train":
            BpeTokenizer.train(["text"], 300)
        elif use == "load":
            load_tokenizer(tmp_path / "vocab.json")
        else:
            BpeTokenizer.from_json(FOREIGN["gpt2"].to_str())
    CharTokenizer().save(tmp_path / "characters.json")
    assert load_tokenizer(tmp_path / "characters.json") == CharTokenizer()


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, tiny_transformer.text.load, tiny_transformer.data.tokenizers;"
        "assert 'tokenizers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_format_is_json_with_the_librarys_own_inside(tmp_path: Path) -> None:
    OURS.save(tmp_path / "vocab.json")
    value = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert (value["format"], value["version"]) == (bpe.FORMAT, bpe.VERSION)
    theirs: Any = Library.from_str(json.dumps(value["tokenizer"]))
    assert theirs.encode(foreign.TEXT).ids == OURS.encode(foreign.TEXT).tolist()
    assert json.loads(OURS.to_json())["model"] == value["tokenizer"]["model"]
