"""Loss, perplexity, bits per character and per byte over a whole text, every target once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tiny_transformer.model.loss import compute_loss
from tiny_transformer.runtime.device import Precision, autocast
from tiny_transformer.runtime.distributed import Ranks, is_sharded, without_gradients
from tiny_transformer.runtime.errors import DataError
from tiny_transformer.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on a text.

    Attributes:
        loss: mean cross-entropy in nats a token.
        n_targets: tokens predicted.
        n_bytes: bytes of UTF-8 that those tokens spell; None where a token is a byte.
        n_chars: characters that begin in them; None where a token is a character.
    """

    loss: float
    n_targets: int
    n_bytes: int | None = None
    n_chars: int | None = None

    @property
    def perplexity(self) -> float:
        """`exp(loss)`: as unsure as between so many equally likely tokens."""
        return math.inf if self.loss > 700 else math.exp(self.loss)

    @property
    def bits_per_char(self) -> float:
        """The text's whole loss in bits, by its characters."""
        return self._bits_per(self.n_chars)

    @property
    def bits_per_byte(self) -> float:
        """The text's whole loss in bits, by its bytes: to compare tokenizers on one text."""
        return self._bits_per(self.n_bytes)

    def _bits_per(self, units: int | None) -> float:
        bits = self.loss / math.log(2)
        if units is None or units == self.n_targets:
            return bits
        return bits * self.n_targets / units if units else math.nan

    def metrics(self) -> dict[str, float | int]:
        """Return the numbers under the names that logs use."""
        return {
            "val_loss": self.loss,
            "val_perplexity": self.perplexity,
            "bits_per_char": self.bits_per_char,
            "bits_per_byte": self.bits_per_byte,
            "n_targets": self.n_targets,
        }


def evaluation_batches(
    tokens: np.ndarray, context_length: int, batch_size: int, rank: int = 0, n_ranks: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a text into non-overlapping windows that predict each token but the first, once.

    Args:
        tokens: ids, one-dimensional, at least two.
        context_length: T, the length of a window.
        batch_size: most windows at once.
        rank: take every `n_ranks`-th batch, from this one on.
        n_ranks: 1 takes all.

    Yields:
        int64 `(x, y)` of shape `(B, T)`; the last batch may have fewer windows, and what
        does not fill a window comes last, alone and shorter.
    """
    n_targets = len(tokens) - 1
    n_full = n_targets // context_length
    for first in range(rank * batch_size, n_full, n_ranks * batch_size):
        count = min(batch_size, n_full - first)
        start = first * context_length
        chunk = _ids(tokens[start : start + count * context_length + 1])
        yield chunk[:-1].view(count, context_length), chunk[1:].view(count, context_length)
    if n_targets % context_length and -(-n_full // batch_size) % n_ranks == rank:
        chunk = _ids(tokens[n_full * context_length :])
        yield chunk[None, :-1], chunk[None, 1:]


def count_batches(n_tokens: int, context_length: int, batch_size: int) -> int:
    """Return how many batches `evaluation_batches` yields, all ranks together."""
    n_full, rest = divmod(n_tokens - 1, context_length)
    return -(-n_full // batch_size) + (rest > 0)


def _ids(tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(tokens.astype(np.int64))


def compute_val_loss(
    model: nn.Module,
    tokens: np.ndarray,
    *,
    context_length: int,
    batch_size: int = 32,
    precision: Precision = "float32",
    tokenizer: Tokenizer | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate `model` on all of `tokens`, without dropout and without side effects.

    Args:
        model: maps `(B, T)` ids to `(B, T, V)` logits; its mode is restored afterwards.
        tokens: ids, one-dimensional; may be memory-mapped.
        context_length: T; each window starts with no context before it.
        batch_size: windows at once; it does not change the result beyond rounding.
        precision: of the forward pass.
        tokenizer: tells how many bytes and characters a token is; None takes one of each. An
            unknown character of the character vocabulary counts as one byte.
        on_batch: called with (targets done, targets in all) after each batch.
        ranks: processes that share the batches; each calls this, and has the same result.

    Returns:
        The mean over every target; batches are summed in float64.

    Raises:
        DataError: there are fewer than two tokens.
    """
    if len(tokens) < 2:
        raise DataError(f"Evaluation needs at least 2 tokens; the text has {len(tokens)}.")
    device = next(model.parameters()).device
    byte_lengths = None if tokenizer is None else tokenizer.byte_lengths  # (V,)
    char_lengths = None if tokenizer is None else tokenizer.char_lengths
    was_training = model.training
    model.eval()
    ranks, n_batches = ranks or Ranks(), 0
    total, n_targets, n_bytes, n_chars = 0.0, 0, 0, 0
    batches = evaluation_batches(tokens, context_length, batch_size, ranks.rank, ranks.count)
    try:
        with without_gradients(model), autocast(device, precision):
            for x, y in batches:
                n_batches += 1
                logits = model(x.to(device))
                total += compute_loss(logits, y.to(device), reduction="sum").item()
                n_targets += y.numel()
                if byte_lengths is not None and char_lengths is not None:
                    n_bytes += int(byte_lengths[y.numpy()].sum())
                    n_chars += int(char_lengths[y.numpy()].sum())
                if on_batch is not None:
                    on_batch(n_targets, len(tokens) - 1)
            n_most = -(-count_batches(len(tokens), context_length, batch_size) // ranks.count)
            for _ in range(n_batches, n_most if is_sharded(model) else 0):
                model(_ids(tokens[None, :1]).to(device))  # sharded weights are gathered by all
    finally:
        model.train(was_training)
    total, *counted = ranks.sum([total, n_targets, n_bytes, n_chars])
    n_targets, n_bytes, n_chars = map(int, counted)
    if tokenizer is None:
        return Evaluation(loss=total / n_targets, n_targets=n_targets)
    return Evaluation(total / n_targets, n_targets, n_bytes, n_chars)
