"""Token ids as a caller gives them, checked before they are decoded."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiny_transformer.runtime.errors import VocabularyError


def checked_ids(ids: Any, vocab_size: int) -> np.ndarray:
    """Return `ids` as a one-dimensional integer array of known ids, or explain.

    Args:
        ids: `(T,)` integers as an array, a tensor or a sequence.
        vocab_size: ids are 0 to `vocab_size - 1`.

    Raises:
        VocabularyError: an id is not an integer or is outside the vocabulary; the message
            names it and its position.
    """
    if hasattr(ids, "detach"):
        ids = ids.detach().cpu()  # a tensor, wherever it lies
    elif not isinstance(ids, np.ndarray):
        ids = list(ids)
        if not all(type(value) is int for value in ids):
            ids = _plain_integers(ids)
        outside = [i for i, value in enumerate(ids) if not 0 <= value < vocab_size]
        if outside:
            raise _outside(ids[outside[0]], outside[0], vocab_size)
        ids = np.array(ids, np.int64)
    array = np.asarray(ids)
    if array.ndim != 1:
        raise VocabularyError(
            f"decode takes one row of ids, but got an array of shape {array.shape}; "
            "use decode_batch for several rows."
        )
    if array.dtype.kind not in "iu" and array.size:
        raise _not_integer(array[0].item(), 0)
    wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
    if wrong.size:
        raise _outside(int(array[wrong[0]]), int(wrong[0]), vocab_size)
    return array.astype(np.intp)


def _plain_integers(values: list[Any]) -> list[int]:
    """Return numpy's and torch's scalar integers as plain ones; explain anything else."""
    plain: list[int] = []
    for position, value in enumerate(values):
        if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
            raise _not_integer(value, position)
        try:
            plain.append(value.__index__())
        except TypeError:
            raise _not_integer(value, position) from None
    return plain


def _outside(value: int, position: int, vocab_size: int) -> VocabularyError:
    return VocabularyError(
        f"Id {value} at position {position} is not in the vocabulary; "
        f"ids are 0 to {vocab_size - 1}."
    )


def _not_integer(value: object, position: int) -> VocabularyError:
    return VocabularyError(
        f"Id {value!r} at position {position} is a {type(value).__name__}; "
        "ids are integers, as encode returns them."
    )
