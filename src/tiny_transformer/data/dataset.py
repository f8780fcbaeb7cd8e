"""Tokens to windows: the split into training and validation, and cutting windows."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiny_transformer.runtime.errors import ConfigError, DataError
from tiny_transformer.runtime.random_state import derive_seed

_CHUNK = 1 << 20  # tokens measured at once


@dataclass(frozen=True)
class Split:
    """The two parts of a corpus, as views of its tokens.

    Attributes:
        train: the training part, one or two contiguous pieces in order.
        validation: the validation part, one contiguous piece.
    """

    train: tuple[np.ndarray, ...]
    validation: np.ndarray


def validation_span(total: int, val_fraction: float, seed: int | None) -> tuple[int, int]:
    """Return where the validation part begins and ends in a text of `total` units.

    Args:
        total: tokens or bytes.
        val_fraction: above 0 and below 1; the part has `round(total * val_fraction)` units.
        seed: None takes the end; a number takes a place that depends on it.
    """
    if not 0 < val_fraction < 1:
        raise ConfigError(
            f"val_fraction is {val_fraction}; it must be above 0 and below 1, for instance 0.05."
        )
    n_train = total - round(total * val_fraction)
    start = n_train if seed is None else derive_seed("split", seed) % (n_train + 1)
    return start, start + total - n_train


def split_corpus(
    tokens: np.ndarray,
    val_fraction: float = 0.05,
    seed: int | None = None,
    *,
    byte_lengths: np.ndarray | None = None,
) -> Split:
    """Keep a contiguous part of the tokens for validation.

    Without `byte_lengths` the validation part has `round(N * val_fraction)` tokens. With them
    it is measured in bytes of the text, and begins and ends at the tokens nearest to its
    place, so that different tokenizers keep the same text for validation, up to half a token
    at each end, and their bits per byte can be compared. On ASCII text the character
    tokenizer, whose tokens are bytes, has just that place. Nothing is copied, and pieces
    without tokens are left out.

    Args:
        tokens: `(N,)`, for instance memory-mapped.
        val_fraction: above 0 and below 1.
        seed: None takes the end of the corpus; a number takes a place that depends on it,
            and what is left for training is the piece before and the piece after.
        byte_lengths: `(V,)` bytes of each id; None counts tokens.
    """
    if byte_lengths is None:
        start, end = validation_span(len(tokens), val_fraction, seed)
    else:
        total = _bytes_before(tokens, byte_lengths, ())[0]
        span = validation_span(total, val_fraction, seed)
        _, (start, end) = _bytes_before(tokens, byte_lengths, span)
    pieces = (tokens[:start], tokens[end:])
    return Split(tuple(piece for piece in pieces if len(piece)), tokens[start:end])


def _bytes_before(
    tokens: np.ndarray, byte_lengths: np.ndarray, places: Sequence[int]
) -> tuple[int, list[int]]:
    """Return the bytes of all tokens, and the index of the token border nearest to each place.

    Of two borders that are equally near the first is taken.
    """
    best = [(place, 0) for place in places]  # (distance, index) of the border before the text
    before = 0
    for first in range(0, len(tokens), _CHUNK):
        ends = before + np.cumsum(byte_lengths[tokens[first : first + _CHUNK]])
        for number, place in enumerate(places):
            nearest = int(np.abs(ends - place).argmin())
            found = (abs(int(ends[nearest]) - place), first + nearest + 1)
            best[number] = min(best[number], found)
        before = int(ends[-1])
    return before, [index for _, index in best]


class WindowDataset:
    """Windows `(x, y)` of the tokens, `y` shifted by one, in constant memory.

    Window `i` of a piece starts at token `i * stride` and spans `context_length + 1`
    tokens. No window crosses from one piece to the next; what is left at the end of a
    piece is dropped.

    Args:
        tokens: `(N,)` integers, or several such pieces (`Split.train`).
        context_length: tokens in `x` and in `y`.
        stride: tokens from one window to the next; None means `context_length`, so that
            windows meet without overlap.

    Raises:
        DataError: no piece is long enough for one window.
    """

    def __init__(
        self,
        tokens: np.ndarray | Sequence[np.ndarray],
        context_length: int = 256,
        stride: int | None = None,
    ) -> None:
        for name, value in (("context_length", context_length), ("stride", stride)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        self.parts = (tokens,) if isinstance(tokens, np.ndarray) else tuple(tokens)
        self.context_length = context_length
        self.stride = context_length if stride is None else stride
        self._view()
        if not len(self):
            longest = max(map(len, self.parts), default=0)
            raise DataError(
                f"The text is too short: one window needs {self.needed(1)} tokens "
                f"(context_length + 1), but this part has {longest}. Give a longer text or a "
                "smaller --model.context-length, or change --data.val-fraction if the other "
                "part has more than it needs."
            )

    def needed(self, n_windows: int) -> int:
        """Return how many tokens in one piece give `n_windows` windows."""
        return (n_windows - 1) * self.stride + self.context_length + 1

    def _view(self) -> None:
        """Make a view `(windows, context_length + 1)` of each piece; no token is copied."""
        span = self.context_length + 1
        self._windows = [
            np.lib.stride_tricks.sliding_window_view(part, span)[:: self.stride]
            for part in self.parts
            if len(part) >= span
        ]
        lengths = [len(windows) for windows in self._windows]
        self._ends = np.cumsum([0, *lengths])[1:]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.batch(np.array([index]))
        return x[0], y[0]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Return several windows at once.

        Args:
            indices: `(B,)` window numbers; negative ones count from the end.

        Returns:
            `x` and `y`, both int64 `(B, T)` with `y[:, t]` the token after `x[:, t]`.

        Raises:
            IndexError: there is no such window.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        wrong = (wanted < -len(self)) | (wanted >= len(self))
        if wrong.any():
            raise IndexError(f"no window {wanted[wrong][0]}: there are {len(self)}")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        piece = np.searchsorted(self._ends, wanted, side="right")
        rows = np.empty((len(wanted), self.context_length + 1), np.int64)  # (B, T + 1)
        for number, windows in enumerate(self._windows):
            here = piece == number
            if here.any():
                rows[here] = windows[wanted[here] - (self._ends[number] - len(windows))]
        tokens = torch.from_numpy(rows)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    # A memory-mapped piece travels to another process as its place in the file.

    def __getstate__(self) -> dict[str, Any]:
        return {
            "parts": [_place_in_file(part) or part for part in self.parts],
            "context_length": self.context_length,
            "stride": self.stride,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.context_length, self.stride = state["context_length"], state["stride"]
        self.parts = tuple(
            np.memmap(mode="r", **part) if isinstance(part, dict) else part
            for part in state["parts"]
        )
        self._view()


def _place_in_file(part: np.ndarray) -> dict[str, Any] | None:
    """Return what `np.memmap` needs to map a contiguous piece again; None where it cannot."""
    mapped = getattr(part, "_mmap", None)
    if not (isinstance(part, np.memmap) and isinstance(mapped, mmap.mmap) and part.filename):
        return None
    if not part.flags.c_contiguous or not part.size:
        return None
    begin = np.frombuffer(mapped, np.uint8).ctypes.data  # a slice keeps its parent's offset
    before = part.offset - part.offset % mmap.ALLOCATIONGRANULARITY
    return {
        "filename": str(part.filename),
        "dtype": part.dtype,
        "offset": part.ctypes.data - begin + before,
        "shape": part.shape,
    }
