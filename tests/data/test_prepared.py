from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_transformer.config import DataConfig
from tiny_transformer.data import PreparedCorpus, prepare, prepared
from tiny_transformer.data.cache import cache_folder
from tiny_transformer.data.streams import CHUNK
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import DataError, StorageError
from tiny_transformer.text import CharTokenizer, normalize_text

TEXT = "Café, said he—“no”.\r\nYes\rNo\n\ttab 中中" + "x" * 1000


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_bytes(TEXT.encode())
    return path


def prepared_from(path: Path, transliterate: bool = False, **options: Any) -> PreparedCorpus:
    return prepare(DataConfig(corpus=str(path), **options), CharTokenizer(transliterate))


def entries(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "prepared").iterdir())


@pytest.mark.parametrize("transliterate", [False, True])
def test_the_tokens_are_those_of_the_text(corpus: Path, transliterate: bool) -> None:
    result = prepared_from(corpus, transliterate)
    assert isinstance(result.tokens, np.memmap)
    assert result.tokens.dtype == np.uint8
    assert not result.tokens.flags.writeable
    decoded = CharTokenizer().decode(result.tokens)
    assert decoded == normalize_text(TEXT, transliterate=transliterate)


def test_the_tokens_do_not_depend_on_the_chunks(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    text = "é\r\n" * (CHUNK // 3)  # a chunk's border falls inside a character or a CRLF
    path.write_bytes(b"x" + text.encode())
    tokens = prepared_from(path).tokens
    assert np.array_equal(tokens, CharTokenizer().encode("x" + text))


@pytest.mark.requirement("data.describe")
def test_the_statistics_count_everything(corpus: Path) -> None:
    result = prepared_from(corpus)
    stats = result.stats
    normal = normalize_text(TEXT)
    assert stats.n_bytes == len(TEXT.encode())
    assert stats.n_chars == stats.n_tokens == len(normal) == sum(stats.counts)
    assert stats.n_lines == 4
    assert stats.counts == tuple(np.bincount(result.tokens, minlength=99).tolist())
    assert stats.unknown == {"中": 2, "é": 1, "—": 1, "“": 1, "”": 1}
    assert next(iter(stats.unknown)) == "中"
    assert stats.unknown_rest == 0
    assert prepared_from(corpus, True).stats.unknown == {"中": 2}


def test_unknown_characters_beyond_the_limit_are_counted_together(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(chr(0x4E00 + i) for i in range(1500)) * 2, encoding="utf-8")
    stats = prepared_from(path).stats
    assert len(stats.unknown) == 1000
    assert sum(stats.unknown.values()) + stats.unknown_rest == stats.counts[1] == 3000


def test_a_second_time_takes_what_is_there(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared_from(corpus)

    def never(*arguments: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(prepared, "_write", never)
    second = prepared_from(corpus)
    assert second.fingerprint == first.fingerprint
    assert second.stats == first.stats
    assert np.array_equal(second.tokens, first.tokens)


def test_the_fingerprint_changes_with_text_tokenizer_and_options(corpus: Path) -> None:
    prints = [prepared_from(corpus).fingerprint, prepared_from(corpus, True).fingerprint]
    prints.append(prepared_from(corpus, errors="replace").fingerprint)
    changed = bytearray(TEXT.encode())
    changed[-1] ^= 1  # the same size, another text
    corpus.write_bytes(changed)
    prints.append(prepared_from(corpus).fingerprint)
    assert len(set(prints)) == 4


DAMAGES: dict[str, Callable[[Path], object]] = {
    "tokens cut": lambda f: (f / "tokens.bin").write_bytes((f / "tokens.bin").read_bytes()[:-1]),
    "tokens longer": lambda f: (f / "tokens.bin").open("ab").write(b"\0"),
    "tokens missing": lambda f: (f / "tokens.bin").unlink(),
    "json missing": lambda f: (f / "corpus.json").unlink(),
    "json empty": lambda f: (f / "corpus.json").write_bytes(b""),
    "json a list": lambda f: (f / "corpus.json").write_bytes(b"[1]"),
    "json bytes": lambda f: (f / "corpus.json").write_bytes(b"\xff\xfe"),
    "json deep": lambda f: (f / "corpus.json").write_bytes(b"[" * 100_000),
    "json of another": lambda f: (f / "corpus.json").write_text(
        json.dumps({**json.loads((f / "corpus.json").read_text()), "fingerprint": "0"})
    ),
    "json of another format": lambda f: (f / "corpus.json").write_text(
        json.dumps({**json.loads((f / "corpus.json").read_text()), "version": 0})
    ),
    "counts": lambda f: (f / "corpus.json").write_text(
        json.dumps({**json.loads((f / "corpus.json").read_text()), "counts": 5})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again(corpus: Path, cache_folder: Path, damage: str) -> None:
    first = prepared_from(corpus)
    expected, before = np.array(first.tokens), entries(cache_folder)
    DAMAGES[damage](first.folder)
    again = prepared_from(corpus)
    assert np.array_equal(again.tokens, expected)
    assert again.stats == first.stats
    assert entries(cache_folder) == before


@pytest.mark.requirement("faults.cache")
@pytest.mark.parametrize("name", ["tokens.bin", "corpus.json"])
def test_a_bit_flipped_anywhere_in_the_cache_is_found_and_the_corpus_made_again(
    tmp_path: Path, name: str, pytestconfig: pytest.Config
) -> None:
    corpus = tmp_path / "short.txt"
    corpus.write_text("to be or not\n" * 6)
    first = prepared_from(corpus)
    expected, file = np.array(first.tokens), first.folder / name
    whole = file.read_bytes()
    for position in range(0, len(whole), 1 if pytestconfig.getoption("--torture") else 11):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        again = prepared_from(corpus)
        assert np.array_equal(again.tokens, expected), position
        assert again.stats == first.stats, position
        # White space between values may change: it says nothing.
        assert file.read_bytes() == whole or bytes(damaged).split() == whole.split(), position


@pytest.mark.requirement("bad.full-disk-prepare")
@pytest.mark.parametrize("call", ["os_write", "os_fsync", "os_replace", "os_mkdir"])
def test_a_disk_that_fills_up_at_any_call_leaves_nothing_behind(
    corpus: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(files, call)
    failing = -1
    for failing in range(100):
        made = 0

        def full(*arguments: Any) -> Any:
            nonlocal made
            made += 1
            if made > failing:  # noqa: B023
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        monkeypatch.setattr(files, call, full)
        try:
            prepared_from(corpus)
        except StorageError as error:
            assert "disk is full" in str(error)
            assert "TINY_TRANSFORMER_CACHE" in str(error)
        else:
            break
        left = entries(cache_folder) if (cache_folder / "prepared").exists() else []
        # A folder that was renamed into place before the failure is whole.
        assert all(not name.startswith(".") for name in left), left
        assert len(left) <= (call == "os_fsync")
        for name in left:
            shutil.rmtree(cache_folder / "prepared" / name)
    assert failing >= 1
    monkeypatch.setattr(files, call, real)
    assert CharTokenizer().decode(prepared_from(corpus).tokens) == normalize_text(TEXT)


def test_a_bad_file_leaves_nothing_behind(corpus: Path, cache_folder: Path) -> None:
    corpus.write_bytes(b"a" * (CHUNK + 5) + b"\xff")
    with pytest.raises(DataError, match=f"byte {CHUNK + 5}, line 1"):
        prepared_from(corpus)
    assert entries(cache_folder) == []
    result = prepared_from(corpus, errors="replace")
    assert result.stats.unknown == {"\ufffd": 1}


@pytest.mark.requirement("bad.no-text")
def test_a_file_with_nothing_but_a_byte_order_mark_holds_no_text(corpus: Path) -> None:
    corpus.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(DataError, match="holds no text"):
        prepared_from(corpus)


def test_a_file_that_changes_while_it_is_read_is_refused(corpus: Path, cache_folder: Path) -> None:
    def grow(done: int, total: int) -> None:
        with corpus.open("ab") as stream:
            stream.write(b"more")

    corpus.write_bytes(b"a" * (2 * CHUNK))
    with pytest.raises(DataError, match="changed while it was being read"):
        prepare(DataConfig(corpus=str(corpus)), CharTokenizer(), progress=grow)
    assert entries(cache_folder) == []


def test_progress_goes_up_to_the_size_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"a" * (3 * CHUNK + 1))
    seen: list[tuple[int, int]] = []
    prepare(DataConfig(corpus=str(path)), CharTokenizer(), progress=lambda *both: seen.append(both))
    assert [done for done, _ in seen] == [CHUNK, 2 * CHUNK, 3 * CHUNK, 3 * CHUNK + 1]
    assert {total for _, total in seen} == {3 * CHUNK + 1}


class _WideTokenizer(CharTokenizer):
    vocab_size = 300


def test_more_than_256_tokens_take_two_bytes_each(corpus: Path) -> None:
    result = prepare(DataConfig(corpus=str(corpus)), _WideTokenizer())
    assert result.tokens.dtype == np.uint16
    assert np.array_equal(result.tokens, CharTokenizer().encode(TEXT))
    assert prepared.token_dtype(256) == np.uint8
    assert prepared.token_dtype(65536) == np.uint16
    assert prepared.token_dtype(65537) == np.uint32


def _prepare_there(path: str) -> tuple[str, int]:
    result = prepare(DataConfig(corpus=path), CharTokenizer())
    return result.fingerprint, int(np.asarray(result.tokens).sum())


def test_processes_that_prepare_at_once_all_get_the_whole_corpus(
    tmp_path: Path, cache_folder: Path
) -> None:
    paths = []
    for number in range(6):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(b"To be, or not to be\n" * (1000 + number))
        paths += [str(path)] * 4
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(_prepare_there, paths, chunksize=1)
    assert len(set(results)) == 6
    assert [_prepare_there(path) for path in paths] == results
    assert len(entries(cache_folder)) == 6


def test_losing_the_race_to_another_process_takes_its_result(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared_from(corpus)
    real = prepared._open
    calls: list[int] = []

    def missing_at_first(*arguments: Any) -> Any:
        calls.append(1)
        return None if len(calls) == 1 else real(*arguments)

    def lost(*arguments: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(prepared, "_open", missing_at_first)
    monkeypatch.setattr(files, "os_replace", lost)
    assert prepared_from(corpus).fingerprint == first.fingerprint


def test_a_copy_that_another_process_replaces_while_it_is_opened_is_opened_again(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = prepared._open
    calls: list[int] = []

    def missing_twice(*arguments: Any) -> Any:
        calls.append(1)
        return None if len(calls) <= 2 else real(*arguments)

    monkeypatch.setattr(prepared, "_open", missing_twice)
    assert prepared_from(corpus).stats.n_tokens > 0
    assert len(calls) == 3


def test_the_cache_folder_is_chosen_by_the_variable_else_by_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TINY_TRANSFORMER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "tiny_transformer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tiny_transformer"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "tiny_transformer"


@pytest.mark.requirement("data.larger-than-memory")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_anonymous_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "memory_1gb.py"
    done = subprocess.run(
        [sys.executable, str(script), "--megabytes", "4", "64", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    small, large = (json.loads(line)["peak_anonymous_mib"] for line in done.stdout.splitlines())
    # 60 MB more text; holding it would take 57 MiB more, and the allocator varies by a few.
    assert abs(large - small) < 20, done.stdout
    assert torch.get_num_threads() <= 2
