"""The reference's own source as if a learner had written it, whole or with a mistake in it."""

from __future__ import annotations

from pathlib import Path

from tiny_transformer import model
from tiny_transformer.course.graft import FILES


def copy_reference(folder: Path) -> Path:
    """Write the file of every part into a new workspace."""
    folder.mkdir(parents=True)
    source = Path(str(model.__file__)).parent
    for name in {file for file, _ in FILES.values()}:
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def plant(folder: Path, file: str, old: str, new: str) -> None:
    """Put a mistake into a file; its text must stand there once."""
    path = folder / file
    text = path.read_text()
    assert text.count(old) == 1, (file, old, text.count(old))
    path.write_text(text.replace(old, new))
