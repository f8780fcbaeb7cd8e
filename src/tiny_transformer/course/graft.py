"""A learner's parts put into the real model: which a workspace has, and which are taken.

A part is found by its file and class, which are named as in `tiny_transformer/model`. A
researcher may give a folder of one's own, or a single file. What is found runs here, in this
process, so it is only looked for where a user names the place.
"""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.answers import install_answers
from tiny_transformer.course.content import STUBS, CourseError
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.errors import suggest
from tiny_transformer.training.written_parts import WrittenParts

WHOLE = "model"
"""What puts the parts together, which may be somebody's too."""

FILES: dict[str, tuple[str, str]] = {
    "token_embedding": ("embeddings.py", "TokenEmbedding"),
    "positional_embedding": ("positional.py", "PositionalEmbedding"),
    "embeddings": ("embeddings.py", "Embeddings"),
    "norm": ("layer_norm.py", "LayerNorm"),
    "attention": ("attention.py", "MultiHeadAttention"),
    "mlp": ("mlp.py", "MLP"),
    "block": ("transformer_block.py", "TransformerBlock"),
    WHOLE: ("transformer.py", "Transformer"),
}
"""Where each part stands in a workspace, in the order of the forward pass; at last the whole."""

SINGLE_HEAD = "SingleHeadAttention"
"""Of module 01: the model's attention where it has one head."""

_REQUIRED = ("__init__", "forward")


@dataclass(frozen=True)
class _Found:
    """A class as it stands in a file, before anything is run."""

    file: Path
    name: str
    unwritten: tuple[str, ...] = ()  # of `__init__` and `forward`, those that are stubs
    attempted: bool = True


def workspace_parts(
    source: str | Path, config: ModelConfig, only: Sequence[str] | None = None
) -> WrittenParts:
    """Import the parts that somebody wrote; the reference's stand for the rest.

    A stub is not taken, nor is a class that is the reference's, imported. A written
    `SingleHeadAttention` serves as attention where `config.n_heads` is 1.

    Args:
        source: a workspace, another folder with such files, or one Python file.
        config: of the model that they are for.
        only: names of parts; None takes all that are written.

    Returns:
        The parts; `notes` says what was found and not taken, and why.

    Raises:
        CourseError: there is no such place, a file cannot be imported, or a part of `only`
            is not there.
        ConfigError: the config asks for what a part does not list in its `capabilities`.
    """
    folder, paths = _files_of(Path(source))
    for name in only or ():
        if name not in FILES:
            raise CourseError(f"{name!r} is not a part of the model. {suggest(name, FILES)}")
    scan = {path: _classes(path) for path in paths}
    install_answers(folder)
    taken: dict[str, tuple[str, str]] = {}
    classes: dict[str, Any] = {}
    notes: list[str] = []
    for part in FILES:
        if only is not None and part not in only:
            continue
        found, note = _choose(part, scan, config)
        if found is not None:
            made = _import(found, single=len(paths) == 1)
            if getattr(made, "__module__", "").startswith("tiny_transformer."):
                note = f"{part}: {found.name} of {found.file.name} is the reference's, imported."
            else:
                classes[part], taken[part] = made, (found.file.name, found.name)
        if note:
            notes.append(note)
        if only is not None and part not in taken:
            raise CourseError(f"The part {part} cannot be taken. {note or _absent(part, config)}")
    whole = classes.pop(WHOLE, None)
    base = Parts.for_config(config, **classes)
    parts = WrittenParts(
        **vars(base),
        model=whole,
        taken=taken,
        sources=_sources(folder),
        notes=tuple(notes),
    )
    parts.check(config)
    return parts


def require_some(parts: WrittenParts, source: str | Path) -> None:
    """Raise `CourseError` where no part was taken."""
    if parts.taken:
        return
    names = ", ".join(f"{name} in {file}" for file, name in FILES.values())
    told = " ".join(parts.notes)
    raise CourseError(
        f"{source} has no part of the model that is written. {told or 'Looked for: ' + names + '.'}"
    )


def _files_of(source: Path) -> tuple[Path, list[Path]]:
    """Return the folder that is imported from, and the files that parts may stand in."""
    if source.is_file():
        if source.suffix != ".py" or "." in source.stem:
            raise CourseError(f"{source} is not a Python file whose name can be imported.")
        return source.resolve().parent, [source.resolve()]
    if not source.is_dir():
        raise CourseError(
            f"There is no folder or file {source} to take parts from. A learner's workspace is "
            "made by: tiny course init"
        )
    inner = source / STUBS
    folder = (inner if inner.is_dir() and not list(source.glob("*.py")) else source).resolve()
    return folder, sorted(path for path in folder.glob("*.py") if "." not in path.stem)


def _choose(
    part: str, scan: dict[Path, dict[str, _Found]], config: ModelConfig
) -> tuple[_Found | None, str]:
    """Return what stands for a part, if it is written, and else a word on why not."""
    file, name = FILES[part]
    if part == "positional_embedding" and config.position in ("rotary", "none"):
        return None, _if_written(
            _find(scan, file, name), f"{part}: not used, as model.position is {config.position}."
        )
    if part == "norm" and config.norm == "rms_norm":
        found = _find(scan, file, "RMSNorm")
        if found is None or not found.attempted:
            return None, _if_written(
                _find(scan, file, name),
                "norm: LayerNorm is not used, as model.norm is rms_norm (--model.norm layer_norm).",
            )
        return _whole(part, found)
    found = _find(scan, file, name)
    if part == "attention" and (found is None or not found.attempted):
        single = _find(scan, file, SINGLE_HEAD)
        if single is not None and single.attempted:
            if config.n_heads == 1:
                return _whole(part, single)
            return None, (
                f"attention: {SINGLE_HEAD} of {single.file.name} has one head, and model.n_heads "
                f"is {config.n_heads}. It is taken with --model.n-heads 1 (tiny course compare: "
                "--heads 1)."
            )
    return (None, "") if found is None or not found.attempted else _whole(part, found)


def _whole(part: str, found: _Found) -> tuple[_Found | None, str]:
    if not found.unwritten:
        return found, ""
    rest = " and ".join(f"{found.name}.{method}" for method in found.unwritten)
    return None, f"{part}: {rest} of {found.file.name} is not written yet."


def _if_written(found: _Found | None, note: str) -> str:
    return note if found is not None and found.attempted else ""


def _absent(part: str, config: ModelConfig) -> str:
    file, name = FILES[part]
    if part == "norm" and config.norm == "rms_norm":
        name = "RMSNorm"
    return f"No class {name} is written in {file}."


def _find(scan: dict[Path, dict[str, _Found]], file: str, name: str) -> _Found | None:
    """Return the class of the file that should have it, or of the only other one that does."""
    for path, classes in scan.items():
        if path.name == file and name in classes:
            return classes[name]
    found = [classes[name] for classes in scan.values() if name in classes]
    return found[0] if len(found) == 1 else None


def _classes(path: Path) -> dict[str, _Found]:
    """Return what the file binds at its top, nothing of it run."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # A file with the name of a part's is imported all the same: that tells what is wrong.
        names = [name for file, name in FILES.values() if file == path.name]
        return {name: _Found(path, name) for name in names}
    found: dict[str, _Found] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
            stubs = tuple(m for m in _REQUIRED if m in methods and _is_stub(methods[m]))
            own = [m for m in _REQUIRED if m in methods]
            attempted = not own or len(stubs) < len(own)
            found[node.name] = _Found(path, node.name, stubs, attempted)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.asname or alias.name for alias in node.names]
            found |= {name: _Found(path, name) for name in names}
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found |= {name: _Found(path, name) for name in names}
    return found


def _is_stub(function: ast.FunctionDef) -> bool:
    """Return whether a function does nothing but raise `NotImplementedError`."""
    body = list(function.body)
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        body = body[1:]
    if len(body) != 1 or not isinstance(body[0], ast.Raise):
        return False
    raised = body[0].exc
    raised = raised.func if isinstance(raised, ast.Call) else raised
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def _import(found: _Found, *, single: bool) -> Any:
    try:
        module = importlib.import_module(f"{STUBS}.{found.file.stem}")
        return getattr(module, found.name)
    except (Exception, SystemExit) as error:
        way_out = "" if single else ", or ask for the other parts only"
        raise CourseError(
            f"{found.file.name} cannot be imported: {type(error).__name__}: {error}"
            f"{where_of(error, found.file.parent)}. Mend it{way_out}."
        ) from None


def where_of(error: BaseException, folder: Path) -> str:
    """Return ` (file.py, line 12)` of the last line in `folder` that an exception came through."""
    if isinstance(error, SyntaxError):
        return ""  # its text has the line
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if Path(f.filename).resolve().parent == folder.resolve()]
    return f" ({Path(inside[-1].filename).name}, line {inside[-1].lineno})" if inside else ""


def _sources(folder: Path) -> dict[str, bytes]:
    """Return the files of the folder that have been imported, by name."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.startswith(f"{STUBS}.") and path and Path(path).resolve().parent == folder:
            found[Path(path).name] = Path(path).read_bytes()
    return found
