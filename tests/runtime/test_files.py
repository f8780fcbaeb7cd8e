"""Files appear whole or not at all, whichever system call fails."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_transformer.config import Config
from tiny_transformer.config.loading import save_config
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import StorageError

SEAMS = ("os_write", "os_fsync", "os_replace", "os_mkdir")


class Seam:
    """Counts the system calls of the seam, and makes the n-th one fail (or all from it on)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.persistent = False
        self.error = errno.ENOSPC
        self.short_writes = False
        for name in SEAMS:
            patch.setattr(files, name, self._wrapped(name, getattr(files, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            index = len(self.calls)
            self.calls.append(name)
            due = self.fail_at is not None and (
                index == self.fail_at or (self.persistent and index > self.fail_at)
            )
            if due:
                raise OSError(self.error, os.strerror(self.error))
            if name == "os_write" and self.short_writes:
                descriptor, data = arguments
                return real(descriptor, data[: max(1, len(data) // 2)])
            return real(*arguments)

        return call


@pytest.fixture
def seam(monkeypatch: pytest.MonkeyPatch) -> Seam:
    return Seam(monkeypatch)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return every path below `folder` with its content (None for a folder)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def replace_folder(target: Path) -> None:
    with files.staged_directory(target) as staged:
        files.write_text(staged / "weights", "new weights")
        files.make_directory(staged / "inner")
        files.write_json(staged / "inner" / "state.json", {"step": 2})


def save_text(target: Path) -> None:
    files.write_text(target, "new " * 100)


OPERATIONS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "write_bytes": ("file", lambda path: files.write_bytes(path, memoryview(b"new bytes"))),
    "write_text": ("file", save_text),
    "write_json": ("file", lambda path: files.write_json(path, {"new": [1, 2]})),
    "save_config": ("file", lambda path: save_config(Config(run_name="new"), path)),
    "staged_directory": ("folder", replace_folder),
}


def _prepare(kind: str, root: Path, *, existing: bool) -> Path:
    root.mkdir()
    target = root / "target"
    if existing and kind == "file":
        target.write_text("old content")
    elif existing:
        (target / "inner").mkdir(parents=True)
        (target / "weights").write_text("old weights")
        (target / "inner" / "gone.json").write_text("{}")
    return target


@pytest.mark.requirement("bad.full-disk")
@pytest.mark.requirement("bad.unwritable")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("existing", [True, False], ids=["over-old", "new"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failure_of_any_system_call_leaves_the_old_or_the_new_whole(
    operation: str, existing: bool, error: int, seam: Seam, tmp_path: Path
) -> None:
    kind, act = OPERATIONS[operation]
    target = _prepare(kind, tmp_path / "whole", existing=existing)
    act(target)
    new, n_calls, names = snapshot(tmp_path / "whole"), len(seam.calls), list(seam.calls)
    assert n_calls >= 4
    assert not [name for name in new if name.endswith((".tmp", ".old"))]
    for point in range(n_calls):
        root = tmp_path / f"fail-{point}"
        target = _prepare(kind, root, existing=existing)
        old = snapshot(root)
        seam.calls.clear()
        seam.fail_at, seam.error = point, error
        with pytest.raises(StorageError) as caught:
            act(target)
        seam.fail_at = None
        renamed = kind == "file" and "os_replace" in names[:point]
        assert snapshot(root) == (new if renamed else old), f"{names[point]}, call {point}"
        assert "target" in str(caught.value)


@pytest.mark.requirement("bad.full-disk")
@pytest.mark.parametrize("existing", [True, False], ids=["over-old", "new"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_disk_that_stays_broken_never_costs_the_old_content(
    operation: str, existing: bool, seam: Seam, tmp_path: Path
) -> None:
    kind, act = OPERATIONS[operation]
    act(_prepare(kind, tmp_path / "whole", existing=existing))
    n_calls = len(seam.calls)
    seam.persistent = True
    for point in range(n_calls):
        root = tmp_path / f"fail-{point}"
        target = _prepare(kind, root, existing=existing)
        old = set(snapshot(root).values())
        seam.calls.clear()
        seam.fail_at = point
        with pytest.raises(StorageError):
            act(target)
        seam.fail_at = None
        renamed = kind == "file" and "os_replace" in seam.calls[:point]
        assert renamed or old <= set(snapshot(root).values())


def test_short_writes_are_continued(seam: Seam, tmp_path: Path) -> None:
    seam.short_writes = True
    data = bytes(range(256)) * 5
    files.write_bytes(tmp_path / "a", data)
    with files.Writer(tmp_path / "b") as writer:
        writer.write(data)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == data
    assert seam.calls.count("os_write") > 10


def test_large_data_is_written_in_chunks(
    monkeypatch: pytest.MonkeyPatch, seam: Seam, tmp_path: Path
) -> None:
    monkeypatch.setattr(files, "_CHUNK", 3)
    files.write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert seam.calls.count("os_write") == 4


def test_a_file_is_synced_before_it_takes_its_name_and_the_folder_after(
    seam: Seam, tmp_path: Path
) -> None:
    files.write_bytes(tmp_path / "a", b"x")
    assert seam.calls == ["os_write", "os_fsync", "os_replace", "os_fsync"]


def test_a_staged_folder_is_synced_before_it_takes_its_name_and_its_parent_after(
    seam: Seam, tmp_path: Path
) -> None:
    with files.staged_directory(tmp_path / "a"):
        pass
    assert seam.calls == ["os_mkdir", "os_fsync", "os_replace", "os_fsync"]


@pytest.mark.parametrize(
    "data", [b"", b"x", memoryview(b"abc"), memoryview(bytearray(8)).cast("d")]
)
def test_bytes_and_views_of_any_kind_are_written(data: Any, tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == bytes(data)


def test_text_is_written_as_utf8_and_json_keeps_its_characters(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "é\n")
    assert (tmp_path / "a").read_bytes() == "é\n".encode()
    files.write_json(tmp_path / "b", {"é": 1})
    text = (tmp_path / "b").read_text(encoding="utf-8")
    assert json.loads(text) == {"é": 1}
    assert "é" in text
    assert text.endswith("}\n")


def test_written_files_can_be_read_by_others_but_written_only_by_their_owner(
    tmp_path: Path,
) -> None:
    mask = os.umask(0)
    try:
        files.write_bytes(tmp_path / "a", b"x")
        files.Writer(tmp_path / "b").close()
    finally:
        os.umask(mask)
    for name in "ab":
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("existing", [True, False])
def test_an_exception_in_the_block_leaves_a_staged_folder_as_it_was(
    existing: bool, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    target = _prepare("folder", root, existing=existing)
    old = snapshot(root)
    with pytest.raises(KeyboardInterrupt), files.staged_directory(target) as staged:
        files.write_text(staged / "weights", "half")
        raise KeyboardInterrupt
    assert snapshot(root) == old


def test_a_staged_folder_creates_its_parents(tmp_path: Path) -> None:
    with files.staged_directory(tmp_path / "a" / "b" / "c") as staged:
        assert staged.parent == tmp_path / "a" / "b"
        assert list(staged.iterdir()) == []
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_make_directory_creates_parents_and_accepts_an_existing_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert files.make_directory(path) == path
    assert files.make_directory(path).is_dir()
    with pytest.raises(StorageError, match="in the way"):
        files.make_directory(path, exist_ok=False)
    assert files.make_directory(tmp_path / "c", exist_ok=False).is_dir()


@pytest.mark.parametrize("exist_ok", [True, False])
def test_make_directory_when_another_process_is_first(
    exist_ok: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def other_process_first(path: Path) -> None:
        os.mkdir(path)  # noqa: PTH102
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(files, "os_mkdir", other_process_first)
    if exist_ok:
        assert files.make_directory(tmp_path / "a" / "b").is_dir()
    else:
        (tmp_path / "a").mkdir()
        with pytest.raises(StorageError):
            files.make_directory(tmp_path / "a" / "b", exist_ok=False)


@pytest.mark.requirement("bad.unwritable")
def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    for path in (tmp_path / "runs", tmp_path / "runs" / "one"):
        with pytest.raises(StorageError, match="a file is in the way"):
            files.make_directory(path)
    assert (tmp_path / "runs").read_text() == "a file"


@pytest.mark.requirement("bad.unwritable")
def test_a_missing_folder_is_told_for_files_and_writers(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a"
    with pytest.raises(StorageError, match="No such file"):
        files.write_text(path, "x")
    with pytest.raises(StorageError, match="No such file"):
        files.Writer(path)


@pytest.mark.requirement("bad.full-disk")
@pytest.mark.requirement("bad.unwritable")
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, ["disk is full", "Free some space"]),
        (errno.EDQUOT, ["quota is used up"]),
        (errno.EACCES, ["No permission", "--runs-dir"]),
        (errno.EPERM, ["No permission", "--runs-dir"]),
        (errno.EROFS, ["No permission", "--runs-dir"]),
        (errno.ENOTDIR, ["in the way"]),
        (errno.EIO, [os.strerror(errno.EIO)]),
    ],
)
def test_the_message_tells_the_cause_the_file_and_what_to_do(
    number: int, words: list[str], seam: Seam, tmp_path: Path
) -> None:
    seam.fail_at, seam.error = 0, number
    with pytest.raises(StorageError) as caught:
        files.write_text(tmp_path / "my-file", "x")
    for word in [*words, "my-file", "Nothing that was already saved has been changed"]:
        assert word in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.requirement("bad.full-disk")
@pytest.mark.parametrize("append", [True, False])
def test_a_log_on_a_full_disk_keeps_whole_lines_only_and_can_go_on(
    append: bool, seam: Seam, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    with files.Writer(path, append=append) as writer:
        writer.write(b"one\n")
        seam.calls.clear()
        seam.short_writes = True
        seam.fail_at = 1  # the first half of the line is written, the rest is not
        with pytest.raises(StorageError, match="disk is full"):
            writer.write(b"second line\n")
        seam.fail_at = None
        writer.write(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


@pytest.mark.requirement("bad.full-disk")
def test_a_writer_reports_a_failed_sync(seam: Seam, tmp_path: Path) -> None:
    with files.Writer(tmp_path / "log") as writer:
        writer.sync()
        assert seam.calls == ["os_fsync"]
        seam.fail_at = 1
        with pytest.raises(StorageError, match="disk is full"):
            writer.sync()


def test_a_writer_appends_or_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for append, expected in ((False, b"a"), (True, b"aa"), (False, b"a")):
        with files.Writer(path, append=append) as writer:
            writer.write(b"a")
        assert path.read_bytes() == expected


def test_a_closed_writer_takes_no_more_and_may_be_closed_again(tmp_path: Path) -> None:
    writer = files.Writer(tmp_path / "log")
    writer.close()
    writer.close()
    writer.sync()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"x")
