"""From logits to a token: pure functions on `(B, V)` scores.

Order: forbidden tokens, repetition penalty, presence and frequency penalties, temperature,
top-k, top-p, min-p, draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.runtime.errors import DivergedError


def forbid(logits: Float[Tensor, "B V"], ids: Sequence[int] | Tensor) -> Float[Tensor, "B V"]:
    """Give the tokens `ids` probability zero."""
    if not len(ids):
        return logits
    index = torch.as_tensor(ids, dtype=torch.int64, device=logits.device)
    return logits.index_fill(-1, index, float("-inf"))


def penalize_repetition(
    logits: Float[Tensor, "B V"], counts: Int[Tensor, "B V"], penalty: float
) -> Float[Tensor, "B V"]:
    """Make tokens that occurred less likely: divide positive logits by `penalty`.

    Args:
        logits: scores.
        counts: how often each token occurred, in the prompt or since.
        penalty: above 0; 1 changes nothing, below 1 favours what occurred. Negative logits
            are multiplied by it. Source: Keskar et al. 2019, "CTRL", section 4.1.
    """
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(counts > 0, penalized, logits)


def penalize_counts(
    logits: Float[Tensor, "B V"],
    counts: Int[Tensor, "B V"],
    *,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> Float[Tensor, "B V"]:
    """Subtract `presence` from each token that was generated, and `frequency` each time it was.

    Args:
        logits: scores.
        counts: how often each token was generated, the prompt left out.
        presence: subtracted once.
        frequency: subtracted for each time. Source: OpenAI's API reference, "presence_penalty"
            and "frequency_penalty".
    """
    return logits - presence * (counts > 0) - frequency * counts


def keep_top_k(logits: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """Keep the k largest logits of each row; of equal ones the lower ids.

    A k above the vocabulary keeps all. Source: Fan et al. 2018, "Hierarchical Neural
    Story Generation", section 5.4.
    """
    if k >= logits.shape[-1]:
        return logits
    order = logits.argsort(dim=-1, descending=True, stable=True)
    dropped = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, order[..., :k], False)
    return logits.masked_fill(dropped, float("-inf"))


def keep_top_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p.

    The likeliest token always stays. Source: Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration", section 3.1.
    """
    if p >= 1:
        return logits
    probabilities = logits.softmax(dim=-1, dtype=torch.float64)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # probability of all likelier tokens
    late = before >= p
    late[..., 0] = False
    dropped = torch.zeros_like(late).scatter_(-1, order, late)
    return logits.masked_fill(dropped, float("-inf"))


def keep_min_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Keep the tokens at least p times as likely as the likeliest one, which stays.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and
    Coherent LLM Outputs", section 3.
    """
    if p <= 0:
        return logits
    probabilities = logits.softmax(dim=-1, dtype=torch.float64)
    least = probabilities.max(dim=-1, keepdim=True).values * min(p, 1.0)
    return logits.masked_fill(probabilities < least, float("-inf"))


@dataclass(frozen=True)
class Counts:
    """How often each token occurred: `(B, V)` integers, of the prompt and of what came after."""

    prompt: Int[Tensor, "B V"]
    generated: Int[Tensor, "B V"]


def next_token_probabilities(
    logits: Float[Tensor, "B V"],
    config: SamplingConfig,
    forbidden: Sequence[int] | Tensor = (),
    counts: Counts | None = None,
) -> Float[Tensor, "B V"]:
    """Return the distribution that the next token is drawn from, float64.

    Args:
        logits: the model's.
        config: penalties, temperature and what is kept.
        forbidden: ids of probability zero.
        counts: what has occurred; only the penalties ask.

    Raises:
        DivergedError: a logit is NaN or +inf, or every token is excluded.
    """
    logits = forbid(logits.double(), forbidden)
    if config.penalizes:
        if counts is None:
            raise ValueError("penalties need the counts of what has occurred")
        logits = _penalize(logits, config, counts)
    largest = logits.max(dim=-1, keepdim=True).values  # NaN if any logit is
    if not math.isfinite(largest.sum().item()):  # one row that is not finite is enough
        raise DivergedError("The model's logits are not finite numbers: its weights are unusable.")
    if config.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    # Differences to the largest stay finite at any temperature; 0/0 cannot arise.
    logits = (logits - largest) / config.temperature
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    return logits.softmax(dim=-1)


def _penalize(logits: Tensor, config: SamplingConfig, counts: Counts) -> Tensor:
    if config.repetition_penalty != 1:
        everything = counts.prompt + counts.generated
        logits = penalize_repetition(logits, everything, config.repetition_penalty)
    presence, frequency = config.presence_penalty, config.frequency_penalty
    if presence or frequency:
        logits = penalize_counts(logits, counts.generated, presence=presence, frequency=frequency)
    return logits


def draw(probabilities: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return one token id a row by inverting the cumulative distribution.

    Args:
        probabilities: float64 rows that sum to one.
        uniforms: float64 numbers in [0, 1), one a row. Row i depends on number i alone,
            so a sample does not change with its batch.
    """
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    index = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    last = (cumulative < total).sum(dim=-1, keepdim=True)  # the last token that can be drawn
    return torch.minimum(index, last).squeeze(-1)
