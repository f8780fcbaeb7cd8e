"""How wrong the model is, written by you: module 05.

Three functions on one number. `tiny course check 05` says how far you are, and
`tiny course hint EXERCISE` helps.

Dimensions: `B` batch, `T` tokens, `V` vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def initial_loss(vocab_size: int, logit_std: float = 0.0) -> float:
    """Return the loss, in nats, that a model has before it has learned anything.

    A model that finds every token equally likely gives each the probability 1/V, whatever
    came. The loss is minus the logarithm of the probability of the token that came.

    Real first logits are not all equal: they stray around 0. If they are independent draws
    from a normal distribution with the standard deviation s, the loss is higher, for

        loss = log(sum over v of exp(z_v)) - z_target

    and the last term is 0 on average. A sum over many tokens is V times the mean of exp(z),
    and the mean of exp(z) over such a distribution is exp(s^2 / 2). Put that in and simplify.

    Args:
        vocab_size: V, how many tokens there are.
        logit_std: s, 0 or more.

    Returns:
        A plain float.

    Example: a fair coin, and the 99 characters of this package's vocabulary.
        >>> round(initial_loss(2), 4), round(initial_loss(99), 4)
        (0.6931, 4.5951)
        >>> round(initial_loss(99, logit_std=1.0), 4)
        5.0951
    """
    raise NotImplementedError("initial-loss")


def perplexity(loss: float) -> float:
    """Return between how many equally likely tokens a model with this loss hesitates.

    It undoes `initial_loss`: a model that knows nothing hesitates between all V.

    Args:
        loss: in nats a token.

    Returns:
        A plain float, at least 1 for a loss of at least 0.

    Example: always right, and as good as a coin.
        >>> perplexity(0.0), round(perplexity(0.693147), 4)
        (1.0, 2.0)
    """
    raise NotImplementedError("perplexity")


def compute_loss(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy between what the model predicts and what came.

        loss[b, t] = log(sum over v of exp(logits[b, t, v])) - logits[b, t, targets[b, t]]

    which is minus the logarithm of the softmax at the target, without ever taking the
    logarithm of a probability that underflowed to 0. Logits may be of any size. Write it with
    PyTorch's functions, or with your `log_sum_exp` of module 00.

    Args:
        logits: (B, T, V), float: scores of the next token at every position. They are not
            changed.
        targets: (B, T), int64: the ids of the tokens that came next.
        reduction: `"mean"` or `"sum"`, over the B x T positions.

    Returns:
        One number, of shape (), in nats, with the dtype of `logits`; gradients flow back to
        the logits.

    Raises:
        Exception: of any kind, where the shape of the targets is not that of the logits
            without their last axis. As many targets in another shape are a mistake too.

    Example: two positions, three tokens; exp(log 2) is 2, so the first probabilities are
    1/4, 1/4, 1/2, and those of the second 1/3 each.
        >>> import torch
        >>> logits = torch.tensor([[[0.0, 0.0, 0.693147], [0.0, 0.0, 0.0]]])
        >>> compute_loss(logits, torch.tensor([[2, 0]]), reduction="sum")  # log 2 + log 3
        tensor(1.7918)
    """
    raise NotImplementedError("compute-loss")
