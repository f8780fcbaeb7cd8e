"""Whose fault it is: errors inside a hook become messages that name it."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

from tiny_transformer.runtime.errors import HookError, TinyError


@contextlib.contextmanager
def blame(label: str, *files: str) -> Iterator[None]:
    """Let every error inside the block name the hook, with its place in the hook's file.

    Args:
        label: the hook's.
        files: where its code lies (`files_of`); the innermost line there is the place.
    """
    try:
        yield
    except TinyError as error:
        if f"hook {label}" not in str(error) and f"hooks.{label}." not in str(error):
            error.args = (f"The hook {label}: {error}",)
        raise
    except (Exception, SystemExit) as error:  # a file may say sys.exit() when it is run
        raise HookError(f"The hook {label} failed: {_told(error, files)}.") from error


def files_of(kind: type) -> tuple[str, ...]:
    """Return the files that a class and those it is made from were written in."""
    modules = [sys.modules.get(base.__module__) for base in kind.__mro__]
    return tuple(file for m in modules if (file := getattr(m, "__file__", None)) is not None)


def _told(error: BaseException, files: tuple[str, ...]) -> str:
    """Return `ZeroDivisionError: division by zero (my_hooks.py, line 12)`."""
    text = f"{type(error).__name__}: {error}".rstrip(": ").rstrip(".")
    if isinstance(error, SyntaxError):
        return text  # it names its own line
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without this file's own
    frames = [frame for frame in frames if frame.filename in files] or frames
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text
