"""Module 00: ten short functions on tensors, each of which a transformer needs later.

Replace each `raise NotImplementedError(...)` by your answer, then run

    tiny course check 00

The first failure that you see is meant: nothing is written yet. Shapes are written as names:
B batch (texts side by side), T time (positions in a text), C channels (numbers a position),
H heads, V vocabulary (tokens that exist), N any number.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def axis_sizes(x: Tensor, names: str) -> dict[str, int]:
    """Return the size of each axis of a tensor, by name.

    Args:
        x: any tensor.
        names: a name for each axis, in order, separated by spaces, for instance `"B T C"`.

    Returns:
        Name to size, in the order of the axes; the sizes are plain `int`.

    Raises:
        ValueError: there are more or fewer names than axes.

    Example:
        >>> axis_sizes(torch.zeros(2, 5, 8), "B T C")
        {'B': 2, 'T': 5, 'C': 8}
    """
    raise NotImplementedError("axis-sizes")


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers there are in a module's parameters.

    Parameters of modules inside it count as well, and so do frozen ones (`requires_grad=False`).
    A parameter that two modules share counts once. Buffers are no parameters and do not count.

    Args:
        module: any module.

    Returns:
        A plain `int`.

    Example:
        A `Linear` from 3 to 4 has a weight of shape (4, 3) and a bias of shape (4,).

        >>> count_parameters(nn.Linear(3, 4))
        16
    """
    raise NotImplementedError("count-parameters")


def seeded_normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return random numbers from the standard normal distribution that depend on the seed alone.

    Equal seeds give equal numbers, whatever was drawn before. PyTorch's global generator, from
    which dropout and everybody else draws, is left exactly as it was.

    Args:
        shape: of the result.
        seed: a whole number, 0 or more.

    Returns:
        float32, with mean 0 and standard deviation 1 over many numbers.

    Example:
        >>> torch.equal(seeded_normal((2, 3), seed=7), seeded_normal((2, 3), seed=7))
        True
    """
    raise NotImplementedError("seeded-normal")


def look_up(table: Tensor, ids: Tensor) -> Tensor:
    """Return the rows of a table that ids name: `result[..., :] = table[ids[...]]`.

    This is what an embedding does: row 7 of the table is the vector of token 7.

    Args:
        table: (V, C), any floating-point dtype.
        ids: int64 of any shape, for instance (B, T); each from 0 to V - 1.

    Returns:
        The shape of `ids` with C at its end, for instance (B, T, C); the dtype of `table`.
        Gradients flow back to the rows that were looked up.

    Example:
        >>> table = torch.tensor([[0., 1.], [10., 11.], [20., 21.]])
        >>> look_up(table, torch.tensor([2, 0]))
        tensor([[20., 21.],
                [ 0.,  1.]])
    """
    raise NotImplementedError("look-up")


def inputs_and_targets(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a language model reads, and what it should answer at each position.

    At position t the model has read `windows[:, 0]` to `windows[:, t]`, and should say the token
    that comes next, `windows[:, t + 1]`. The last token of a window is never read, and the first
    is never a target.

    Args:
        windows: (B, T + 1) int64 ids.

    Returns:
        x: (B, T), what is read.
        y: (B, T), what comes next: `y[:, t]` is the token after `x[:, t]`.

    Example:
        >>> inputs_and_targets(torch.tensor([[5, 6, 7, 8]]))
        (tensor([[5, 6, 7]]), tensor([[6, 7, 8]]))
    """
    raise NotImplementedError("inputs-and-targets")


def windows_at(ids: Tensor, starts: Tensor, length: int) -> Tensor:
    """Cut windows out of one long text, all of one length, one for each start.

    Args:
        ids: (N,) the text as token ids, of any dtype.
        starts: (B,) int64, where each window begins; they may overlap, in any order.
        length: T, tokens in a window; every window ends inside the text.

    Returns:
        (B, T) of the dtype of `ids`: row b is `ids[starts[b] : starts[b] + length]`.

    Example:
        >>> windows_at(torch.arange(100, 110), torch.tensor([0, 4]), 3)
        tensor([[100, 101, 102],
                [104, 105, 106]])
    """
    raise NotImplementedError("windows-at")


def hide_padding(scores: Tensor, is_real: Tensor) -> Tensor:
    """Set the scores of padding to minus infinity, so that a softmax gives it no weight.

    Texts of unequal length lie side by side in one batch, the short ones filled up with padding.
    For each text, head and query there is one score a key; keys that are padding must not count.

    Args:
        scores: (B, H, Q, K), one for each text, head, query and key.
        is_real: (B, K) bool: False where a key of that text is padding.

    Returns:
        (B, H, Q, K) of the dtype of `scores`: `-inf` where the key is padding, else the score.
        `scores` itself is left as it was.

    Example:
        One text, one head, two queries, three keys, of which the last is padding:

        >>> scores = torch.tensor([[[[1., 2., 3.], [4., 5., 6.]]]])
        >>> hide_padding(scores, torch.tensor([[True, True, False]]))
        tensor([[[[1., 2., -inf],
                  [4., 5., -inf]]]])
    """
    raise NotImplementedError("hide-padding")


def log_sum_exp(x: Tensor) -> Tensor:
    """Return the logarithm of the sum of exponentials over the last axis, for any numbers.

    `log(exp(x[..., 0]) + exp(x[..., 1]) + ...)`. Written like that, in float32, it is `inf` where
    an x is 89 or more, and `-inf` where all are -104 or less. Taking a constant m out of the sum
    changes nothing in exact arithmetic, and everything in floating point:

        log sum_i exp(x_i) = m + log sum_i exp(x_i - m)

    Use operations like `exp`, `log` and `max`; `torch.logsumexp` would be this exercise's answer.

    Args:
        x: (..., N) floating point; N is 1 or more. Entries may be `-inf`.

    Returns:
        (...) of the same dtype: one number a row. A row that is `-inf` throughout gives `-inf`.

    Example:
        >>> log_sum_exp(torch.tensor([[0., 0.], [100., 100.]]))
        tensor([  0.6931, 100.6931])
    """
    raise NotImplementedError("log-sum-exp")


def running_mean(x: Tensor) -> Tensor:
    """Return at each position the mean of all vectors up to it: `y[t] = mean(x[0], ..., x[t])`.

    Do it as one matrix product, `y = W @ x`, where W is (T, T): row t has the weight 1 / (t + 1)
    for positions 0 to t, and 0 for those after it. Attention will be the same product, with
    weights that depend on the tokens.

    Args:
        x: (B, T, C) floating point.

    Returns:
        (B, T, C) of the same dtype, on the same device. Position t does not depend on later ones.

    Example:
        >>> running_mean(torch.tensor([[[2.], [4.], [9.]]]))
        tensor([[[2.],
                 [3.],
                 [5.]]])
    """
    raise NotImplementedError("running-mean")


def gradient_step(
    weights: Tensor, loss_of: Callable[[Tensor], Tensor], learning_rate: float
) -> Tensor:
    """Return weights after one step of gradient descent: `w - learning_rate * dloss/dw`.

    Let autograd find the gradient. This is what every optimizer does at its heart.

    Args:
        weights: of any shape, floating point; it may require gradients, or not.
        loss_of: takes weights, returns the loss, a scalar.
        learning_rate: how far to step.

    Returns:
        The new weights, of the same shape and dtype, in memory of their own. They do not require
        gradients, and remember nothing of how they were computed.

    `weights` is left as it was: its numbers, its `requires_grad` and its `grad`. So a second call
    with the same arguments returns the same.

    Example:
        The loss w squared has the gradient 2 w, which is 6 at w = 3:

        >>> gradient_step(torch.tensor([3.]), lambda w: (w**2).sum(), learning_rate=0.1)
        tensor([2.4000])
    """
    raise NotImplementedError("gradient-step")
