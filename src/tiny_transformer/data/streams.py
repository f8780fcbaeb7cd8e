"""Files to pieces of text: read in chunks, decoded, and checked on the way.

Memory does not grow with the file. Characters of several bytes and CRLF pairs that a
chunk's border cuts come out whole, so the text does not depend on the chunk size.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from tiny_transformer.runtime.errors import DataError

CHUNK = 1 << 20  # bytes read at once

Errors = Literal["strict", "replace"]


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    Attributes:
        label: how messages name it.
        source: the path of a file, or the bytes themselves.
        clean: turns the whole decoded text into plain text; such a document is read whole.
    """

    label: str
    source: Path | bytes
    clean: Callable[[str], str] | None = None

    @property
    def n_bytes(self) -> int:
        """Size in bytes as it lies on the disk."""
        if isinstance(self.source, bytes):
            return len(self.source)
        try:
            return self.source.stat().st_size
        except OSError as error:
            raise unreadable(self.label, error) from None

    def chunks(self, chunk_size: int = CHUNK) -> Iterator[bytes]:
        """Yield the raw bytes; raise `DataError` where the file cannot be read."""
        try:
            with self._open() as stream:
                while chunk := stream.read(chunk_size):
                    yield chunk
        except OSError as error:
            raise unreadable(self.label, error) from None

    def _open(self) -> BinaryIO:
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        return self.source.open("rb")


def unreadable(label: str, error: OSError) -> DataError:
    """Return the error for a file that the system does not let us read."""
    return DataError(
        f"{label} cannot be read: {error.strerror or error}. Check that it exists and that you "
        "have permission to read it."
    )


def decode(document: Document, chunks: Iterable[bytes], errors: Errors = "strict") -> Iterator[str]:
    """Yield the text of `chunks`, which are the bytes of `document`, in pieces.

    A byte-order mark at the beginning is dropped. No piece ends inside a CRLF pair.

    Raises:
        DataError: there is a NUL byte, which no text holds, or (unless `errors` is
            "replace", which reads each bad sequence as U+FFFD) bytes that are not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset = 0  # bytes before this chunk
    held = ""  # a carriage return whose newline may come with the next chunk
    begun = False
    for chunk in _with_end(chunks):
        nul = -1 if chunk is None else chunk.find(b"\0")
        if nul >= 0:
            raise DataError(
                f"{document.label} is binary, not text: byte {offset + nul} is NUL. Give a "
                "UTF-8 text file (a file in UTF-16 must be saved as UTF-8 first)."
            )
        offset += len(chunk or b"")
        try:
            text = held + decoder.decode(chunk or b"", final=chunk is None)
        except UnicodeDecodeError as error:
            bad = offset - len(error.object) + error.start
            raise _not_utf8(document, bad, error.reason) from None
        held = ""
        if text and not begun:
            begun, text = True, text.removeprefix("\ufeff")
        if chunk is not None and text.endswith("\r"):
            held, text = "\r", text[:-1]
        if text:
            yield text


def _with_end(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    yield from chunks
    yield None


def _not_utf8(document: Document, offset: int, reason: str) -> DataError:
    return DataError(
        f"{document.label} is not UTF-8 text: {reason} at byte {offset}, line "
        f"{_line_at(document, offset)}. Save the file as UTF-8, or give --data.errors replace "
        "to read such bytes as unknown characters."
    )


def _line_at(document: Document, offset: int) -> int:
    r"""Return the line (from 1) of a byte; `\n`, `\r\n` and a lone `\r` end a line."""
    lines, after_return = 1, False
    for chunk in document.chunks():
        part = chunk[:offset]
        lines += part.count(b"\n") + part.count(b"\r") - part.count(b"\r\n")
        lines -= after_return and part.startswith(b"\n")
        after_return = part.endswith(b"\r")
        offset -= len(part)
        if not offset:
            break
    return lines
