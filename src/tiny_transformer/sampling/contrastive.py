"""Contrastive search: a likely token whose vector is unlike those before it.

Notable: each of the k likeliest tokens is read as if it had been chosen, side by side, and
the rows of the cache then all follow the one that is. When the context is full, its newest
half is kept and encoded again, as in `generator.py`; tokens out of sight are not compared with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.kv_cache import KVCache, check_fits, newest_half
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.sampling.generator import evaluating
from tiny_transformer.sampling.strategies import next_token_probabilities


def contrastive_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    k: int,
    alpha: float,
    forbidden: Sequence[int] = (),
    end_ids: Collection[int] = (),
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield the ids that contrastive search chooses, one by one.

    Of the k likeliest tokens v it takes the one with the largest

        (1 - alpha) p(v | x) - alpha max_j cos(h_v, h_j)

    where h is the final norm's output at a token and j runs over the earlier tokens that the
    model sees together with v. Of equal ones the likelier, then the lower id, is taken.

    Args:
        model: is put into evaluation mode for each step, and back into its own.
        prompt: ids to continue, 1 to `context_length` of them.
        max_new_tokens: how many to yield, unless an end id comes first.
        k: number of candidates; 1 is greedy.
        alpha: weight of the penalty, 0 to 1; 0 is greedy.
        forbidden: ids that are never generated.
        end_ids: ids after which generation ends; the one that ends it is yielded.
        use_cache: False computes the whole context for every token.

    Raises:
        ConfigError: a number is out of its range.
        PromptError: the prompt is empty or longer than the context.
        DivergedError: the logits are not finite, or every token is forbidden.

    Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equation 5.
    """
    _check_numbers(max_new_tokens, k, alpha)
    limit = model.config.context_length
    check_fits(0, len(prompt), limit)
    k = max(1, min(k, model.config.vocab_size - len(set(forbidden))))
    reader = _Reader(model, k, use_cache)
    context = torch.tensor([list(prompt)])  # (1, T)
    with evaluating(model):
        hidden, logits = reader.start(context.expand(k, -1))  # (k, T, C), (k, V)
    earlier, logits = hidden[0], logits[:1]  # (T, C), (1, V)
    for _ in range(max_new_tokens):
        with evaluating(model):
            probabilities = next_token_probabilities(logits.cpu(), SamplingConfig(), forbidden)[0]
            candidates = probabilities.argsort(descending=True, stable=True)[:k]
            rows = torch.cat([context.expand(k, -1), candidates[:, None]], dim=1)  # (k, T + 1)
            if rows.shape[1] > limit:
                rows = rows[:, -newest_half(limit) :]
                hidden, logits = reader.start(rows)  # (k, T, C), (k, V)
                earlier = hidden[0, :-1]  # of what all rows begin with
            else:
                hidden, logits = reader.step(rows)
            scores = (1 - alpha) * probabilities[candidates]
            scores = scores - alpha * _largest_cosine(hidden[:, -1], earlier).cpu()
            best = int(scores.argmax())
            reader.follow(best)
            earlier = torch.cat([earlier, hidden[best, -1:]])
            context, logits = rows[best : best + 1], logits[best : best + 1]
            chosen = int(candidates[best])
        yield chosen
        if chosen in end_ids:
            return


def _largest_cosine(
    candidates: Float[Tensor, "k C"], earlier: Float[Tensor, "T C"]
) -> Float[Tensor, " k"]:
    """Return each candidate's cosine with the earlier vector it is most like, float64.

    Zero where there is none: in a context so short that a token is alone in it.
    """
    if not len(earlier):
        return candidates.new_zeros(len(candidates), dtype=torch.float64)
    cosines = F.normalize(candidates.double(), dim=-1) @ F.normalize(earlier.double(), dim=-1).T
    return cosines.max(dim=-1).values  # (k, T) -> (k,)


class _Reader:
    """Returns vectors and logits of k rows that differ in their last token alone."""

    def __init__(self, model: Transformer, k: int, use_cache: bool) -> None:
        self._model, self._k = model, k
        weight = model.lm_head.weight
        self._device = weight.device
        self._cache = None
        if use_cache and model.can_cache:
            self._cache = KVCache(model.config, k, dtype=weight.dtype, device=weight.device)

    def start(self, rows: Int[Tensor, "k T"]) -> tuple[Tensor, Tensor]:
        """Read rows afresh: the vectors of all their tokens `(k, T, C)`, logits `(k, V)`."""
        if self._cache is not None:
            self._cache.clear()
        return self._read(rows)

    def step(self, rows: Int[Tensor, "k T"]) -> tuple[Tensor, Tensor]:
        """Read rows with one token more than before; the last vectors `(k, 1, C)` suffice."""
        return self._read(rows if self._cache is None else rows[:, -1:])

    def follow(self, row: int) -> None:
        """Let all rows continue this one."""
        if self._cache is not None:
            self._cache.reorder(torch.full((self._k,), row, device=self._device))

    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the final norm's output at every token, and the logits after the last."""
        stream = self._model.residual_stream(ids.to(self._device), self._cache)  # (k, T, C)
        hidden = self._model.final_norm(stream)
        return hidden, self._model.lm_head(hidden[:, -1])


def _check_numbers(max_new_tokens: int, k: int, alpha: float) -> None:
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 0.")
    if k < 1:
        raise ConfigError(f"The number of candidates, k, is {k}; it must be at least 1.")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; it must be between 0 and 1.")
