"""A shuffle of 0 .. n-1 that is computed, not stored: constant memory at any n.

A Feistel network is a bijection on `2^(2h)` numbers whatever its round function is. Values
that fall outside 0 .. n-1 are sent through it again until they fall inside (cycle
walking), which leaves a bijection on 0 .. n-1. Source: J. Black and P. Rogaway, "Ciphers
with Arbitrary Finite Domains", CT-RSA 2002. The round function is a finaliser of
SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014). This is for shuffling, not secrecy.
"""

from __future__ import annotations

import numpy as np

from tiny_transformer.runtime.random_state import derive_seed

_ROUNDS = 8
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Permutation:
    """A keyed bijection of `0 .. n-1`.

    Args:
        n: how many numbers; at least 1 and at most 2^62.
        key: what the order depends on, for instance `(seed, epoch)`.
    """

    def __init__(self, n: int, *key: int | str) -> None:
        if not 1 <= n <= 1 << 62:
            raise ValueError(f"n is {n}; it must be between 1 and 2**62")
        self.n = n
        half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
        self._half_bits = np.uint64(half_bits)
        self._mask = np.uint64((1 << half_bits) - 1)
        self._keys = [
            np.uint64(derive_seed("permutation", number, *key)) for number in range(_ROUNDS)
        ]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return where each position is sent: int64, the shape of `positions`.

        Raises:
            IndexError: a position is not in `0 .. n-1`.
        """
        positions = np.asarray(positions)
        if positions.size and (positions.min() < 0 or positions.max() >= self.n):
            raise IndexError(f"positions must be in 0 .. {self.n - 1}")
        values = self._encipher(positions.astype(np.uint64).ravel())
        outside = np.flatnonzero(values >= self.n)
        while outside.size:
            values[outside] = self._encipher(values[outside])
            outside = outside[values[outside] >= self.n]
        return values.astype(np.int64).reshape(positions.shape)

    def _encipher(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread every bit of uint64 values over all of them; overflow wraps."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIERS[1]
    return values ^ (values >> np.uint64(31))
