"""Errors for people: what was given, what was expected, and what to do next.

Every mistake that a user can make raises a `TinyError`. The command line prints its
message without a traceback and ends with its `exit_status`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TinyError(Exception):
    """A mistake that its message explains.

    Attributes:
        exit_status: what the command line returns to the shell.
        told: whether another process tells of it, so that this one need not.
    """

    exit_status: int = 2
    told: bool = False


class ConfigError(TinyError):
    """A setting with an unknown name or an unusable value."""


class DataError(TinyError):
    """A corpus that cannot be read, or is too small for what was asked."""


class VocabularyError(TinyError):
    """A vocabulary file that is damaged, or that belongs to another tool."""


class PromptError(TinyError):
    """A prompt that the model cannot take as it is.

    Args:
        problem: a sentence that says what is wrong with it.
        remedy: a sentence that says what to do, where that is known.

    Attributes:
        problem: as given.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem = problem


class CheckpointError(TinyError):
    """A checkpoint that is missing, damaged, or made for another model."""


class RunError(TinyError):
    """A run that cannot be found, or a run name that is taken."""


class HookError(TinyError):
    """A hook that raised, or tried what it may not do; the message names it."""


class StorageError(TinyError):
    """A file that could not be written: the disk is full, or writing is not allowed."""


class DivergedError(TinyError):
    """A training loss or gradient that stopped being a finite number."""

    exit_status: int = 3


def suggest(name: str, valid: Iterable[str]) -> str:
    """Return a sentence that names the nearest valid name, or all of them.

    Args:
        name: what was given.
        valid: the names that would have been accepted.

    Returns:
        `"Did you mean 'n_layers'?"`, or `"Valid names: a, b, c."` where none is near.
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Valid names: {', '.join(names)}."
