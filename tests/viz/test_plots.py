from __future__ import annotations

from pathlib import Path

import pytest

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import DataError, StorageError
from tiny_transformer.viz.plots import plot_character_distribution

COUNTS = {"space": 100, "e": 50, "$": 3, "_": 2, "\\n": 10, "^": 1, "z": 0}


@pytest.mark.requirement("data.describe")
@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_the_distribution_is_drawn_to_a_file(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / "new" / f"plot.{suffix}"
    assert plot_character_distribution(COUNTS, path) == path
    assert path.read_bytes().startswith(magic)
    assert path.stat().st_size > 2000


def test_what_cannot_be_drawn_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in \.png"):
        plot_character_distribution(COUNTS, tmp_path / "plot.pgn")
    with pytest.raises(DataError, match="no characters"):
        plot_character_distribution({"a": 0}, tmp_path / "plot.png")


def test_a_full_disk_leaves_the_old_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")

    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "os_write", full)
    with pytest.raises(StorageError, match="disk is full"):
        plot_character_distribution(COUNTS, path)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["plot.png"]
    assert path.read_bytes() == b"old"
