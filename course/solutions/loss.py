"""The loss, answered: module 05.

`compute_loss` is the package's own, the one that models are trained with.
"""

from __future__ import annotations

import math

from tiny_transformer.evaluation.evaluator import Evaluation
from tiny_transformer.model.loss import compute_loss

__all__ = ["compute_loss", "initial_loss", "perplexity"]


def initial_loss(vocab_size: int, logit_std: float = 0.0) -> float:
    """Return `log V + s^2 / 2`, the loss where logits are normal draws around 0."""
    return math.log(vocab_size) + logit_std**2 / 2


def perplexity(loss: float) -> float:
    """Return `exp(loss)`, as evaluation reports it."""
    return Evaluation(loss=loss, n_targets=1).perplexity
