"""First weights, written by you: module 03."""

from __future__ import annotations

import math


def residual_std(n_layers: int, std: float = 0.02) -> float:
    """Return the first standard deviation of the matrices that write into the residual stream.

    Every block adds to the stream twice, once after attention and once after the MLP. What is
    added has a variance in proportion to the square of the standard deviation of the last
    matrix of its branch (`o_proj` and `down_proj`). At the start of training, what the branches
    add is independent. Choose the standard deviation of these matrices so that **all branches
    of the model together** add the variance that **one branch** would add with `std`.

    Args:
        n_layers: blocks of the model, 1 or more.
        std: the standard deviation of every other matrix.

    Returns:
        A plain float.

    Example: eight blocks have sixteen branches; each gets a quarter of the deviation.
        >>> residual_std(8, std=0.02)
        0.005
    """
    raise NotImplementedError("residual-std")
