"""The one place where files are written.

Everything that the package leaves on a disk goes through the system calls named here
(`os_open`, `os_write`, `os_fsync` and so on), so that a test can make any of them fail,
kill the process at it, or replay all of them as a power cut would have left them; and so
that every failure reaches the user as one `StorageError`.

Files appear whole or not at all: they are written beside their place, synced, and
renamed into it. A log grows by whole lines.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tiny_transformer.runtime.errors import StorageError

_CHUNK = 16 << 20  # bytes handed to one system call

os_open = os.open
os_write = os.write
os_truncate = os.ftruncate
os_fsync = os.fsync
os_replace = os.replace
os_mkdir = os.mkdir
os_unlink = os.unlink
os_rmdir = os.rmdir


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into a `StorageError` about `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError(_explain(path, error)) from error


def _explain(path: Path, error: OSError) -> str:
    kept = "Nothing that was already saved has been changed."
    if error.errno == errno.ENOSPC:
        return (
            f"The disk is full: {path} could not be written. {kept} Free some space and try again."
        )
    if error.errno == errno.EDQUOT:
        return f"The disk quota is used up: {path} could not be written. {kept}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"No permission to write {path} ({error.strerror}). {kept} "
            "Choose another folder, for instance with --runs-dir."
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path} cannot be created: a file is in the way ({error.strerror}). {kept}"
    return f"{path} could not be written: {error.strerror or error}. {kept}"


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os_write(descriptor, view[:_CHUNK])
        view = view[written:]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os_fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, *, exist_ok: bool = True) -> Path:
    """Create `path` and its parents; raise `StorageError` where that is impossible."""
    with explained(path):
        for folder in [*reversed(path.parents), path]:
            if folder.is_dir() and (exist_ok or folder != path):
                continue
            try:
                os_mkdir(folder)
            except FileExistsError:  # another process may have been first
                if not folder.is_dir() or (folder == path and not exist_ok):
                    raise
            try:
                _sync_directory(folder.parent)  # else a power cut takes all that is put into it
            except OSError:
                with contextlib.suppress(OSError):
                    os_rmdir(folder)
                raise
    return path


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` durably; the file appears whole or not at all."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explained(path):
        try:
            descriptor = os_open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                _write_all(descriptor, data)
                os_fsync(descriptor)
            finally:
                os.close(descriptor)
            os_replace(staged, path)
            _sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os_unlink(staged)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; rename it into place when the block ends.

    If the block raises, the folder is removed and `path` is as it was. A folder that
    already stands at `path` is replaced: moved aside first and removed last, so that at
    every moment one of the two is whole.
    """
    make_directory(path.parent)
    token = secrets.token_hex(4)
    staged = path.with_name(f".{path.name}.{token}.tmp")
    old = path.with_name(f".{path.name}.{token}.old")
    with explained(path):
        os_mkdir(staged)
        try:
            yield staged
            _sync_directory(staged)
            if path.exists():
                os_replace(path, old)
            try:
                os_replace(staged, path)
                _sync_directory(path.parent)
            except BaseException:
                if not staged.exists():
                    os_replace(path, staged)
                if old.exists():
                    os_replace(old, path)
                raise
        except BaseException:
            discard(staged)
            raise
    discard(old)


def move_into(folder: Path, paths: Iterable[Path]) -> None:
    """Make the folder `folder`, and move files or folders into it, one after the other."""
    with explained(folder):
        os_mkdir(folder)
        _sync_directory(folder.parent)  # before anything is in it that could be lost with it
        for path in paths:
            os_replace(path, folder / path.name)
        _sync_directory(folder)
        _sync_directory(folder.parent)


def sync_directory(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    with explained(path):
        _sync_directory(path)


def move_and_discard(path: Path, aside: Path) -> None:
    """Remove the folder `path`: it vanishes at once, under the name `aside`, then in parts."""
    with explained(path):
        os_replace(path, aside)
        _sync_directory(path.parent)
    discard(aside)


def discard(path: Path) -> None:
    """Remove a file or a folder with all in it; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            os_unlink(path)
            return
        for inner in sorted(path.iterdir()):
            discard(inner)
        os_rmdir(path)


class Writer:
    """A growing file: a stream of bytes, or a log of lines.

    Args:
        path: the file to write to; created if missing.
        append: continue after what is there, instead of starting empty.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
        self._cut: int | None = None  # where to cut before the next write
        with explained(path):
            self._descriptor: int | None = os_open(path, flags, 0o644)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; where that fails, cut off what was begun and raise `StorageError`."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        with explained(self.path):
            self._cut_off(self._descriptor)
            whole = os.fstat(self._descriptor).st_size
            try:
                _write_all(self._descriptor, data)
            except BaseException:
                self._cut = whole
                self._cut_off(self._descriptor)
                raise

    def _cut_off(self, descriptor: int) -> None:
        """Remove what a failed write began; where that fails too, the next write tries again."""
        if self._cut is not None:
            os_truncate(descriptor, self._cut)
            os.lseek(descriptor, self._cut, os.SEEK_SET)
            self._cut = None

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        if self._descriptor is not None:
            with explained(self.path):
                os_fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
