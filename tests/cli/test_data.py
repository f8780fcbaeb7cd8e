from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tiny_transformer.cli import data
from tiny_transformer.data import tinyshakespeare
from tiny_transformer.runtime.errors import ConfigError, DataError

TEXT = "Café — “no” [bold]\n" * 400


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_list_names_every_corpus_and_whether_it_is_prepared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert data.main(["list"]) == 0
    before = capsys.readouterr().out
    assert data.main(["prepare", "simple"]) == 0
    assert "simple: 19,639 tokens in " in capsys.readouterr().out
    data.main(["list"])
    after = capsys.readouterr().out

    def prepared(out: str) -> dict[str, str]:
        rows = [line.split() for line in out.splitlines() if line.strip()]
        return {row[0]: row[-1] for row in rows}

    for name in ("shakespeare", "tinyshakespeare", "simple"):
        assert prepared(before)[name] == "no"
    assert prepared(after)["simple"] == "yes"
    assert prepared(after)["shakespeare"] == "no"


@pytest.mark.requirement("data.describe")
def test_describe_counts_what_is_there(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["describe", corpus]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    n = len(TEXT)
    for expected in (
        f"bytes {len(TEXT.encode()):,}",
        f"characters {n:,}",
        "lines 400",
        f"tokens {n:,} (uint8)",
        "of 97 characters",
        "unknown 1,600",
        f"training part {n - round(n * 0.05):,} tokens, 28 windows of 256, 1 batches of 16",
        f"validation part {round(n * 0.05):,} tokens, 1 windows of 256",
        "U+00E9 LATIN SMALL LETTER E WITH ACUTE 400",
        "U+2014 EM DASH 400",
        hashlib.sha256(TEXT.encode()).hexdigest(),
    ):
        assert expected in words
    assert "\\n 400" in words
    assert "[ 400" in words
    assert "#####" in out
    assert data.main(["describe", corpus, "--transliterate"]) == 0
    assert "unknown 0 (0.0000%" in " ".join(capsys.readouterr().out.split())


@pytest.mark.requirement("data.describe")
def test_describe_writes_a_plot_where_it_is_asked_to(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data.main(["describe", corpus])
    assert list(Path.cwd().iterdir()) == []
    data.main(["describe", corpus, "--plot", "plot.png"])
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.requirement("data.describe")
def test_describe_takes_a_text_too_short_for_a_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert data.main(["describe", str(tmp_path / "a.txt")]) == 0
    assert "0 windows of 256" in capsys.readouterr().out


@pytest.mark.requirement("bad.utf8")
@pytest.mark.parametrize("flag", ["--errors", "--data.errors"])
def test_bad_bytes_are_read_as_unknown_where_that_is_asked_for(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"--data\.errors replace"):
        data.main(["describe", str(path)])
    assert data.main(["describe", str(path), flag, "replace"]) == 0


@pytest.mark.requirement("corpora.tinyshakespeare-checksum")
def test_prepare_takes_tinyshakespeare_from_a_file_or_from_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_text("First Citizen:\n")
    with pytest.raises(DataError, match="is not Tiny Shakespeare"):
        data.main(["prepare", "tinyshakespeare", "--from-file", str(copy)])
    monkeypatch.setattr(tinyshakespeare, "URL", "http://127.0.0.1:1/none")
    with pytest.raises(DataError, match="--from-file PATH"):
        data.main(["prepare", "tinyshakespeare"])
    asked: list[object] = []
    monkeypatch.setattr(
        tinyshakespeare, "fetch_tinyshakespeare", lambda *a, **k: asked.append((a, k))
    )
    with pytest.raises(DataError, match="has not been fetched"):
        data.main(["prepare", "tinyshakespeare", "--from-file", str(copy)])
    assert asked == [((str(copy),), {})]


def test_from_file_belongs_to_tinyshakespeare(corpus: str) -> None:
    with pytest.raises(ConfigError, match="Name the file itself"):
        data.main(["prepare", corpus, "--from-file", "x"])


@pytest.mark.requirement("bad.missing-file")
def test_a_missing_file_is_an_error_for_people() -> None:
    with pytest.raises(DataError, match="Did you mean 'shakespeare'"):
        data.main(["describe", "shakespere"])


@pytest.mark.parametrize("words", [["describe"], ["prepare", "simple", "--erors", "x"], ["lst"]])
def test_a_wrong_command_line_ends_with_status_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        data.main(words)
    assert caught.value.code == 2
