"""Speculative decoding: a small model proposes tokens, a large one checks them in one pass.

The tokens have exactly the distribution that the large model, the target, gives them, whatever
the small one, the draft, proposes; a good draft only makes them come sooner. Notable: the rule
that makes it so is two small functions, `accept` and `residual`; what was rejected is cut from
both caches; each model has a window of its own, whose newest half is kept when it is full, as
in `generator.py`, so that greedy text is the same to the token.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
algorithm 1; Chen et al. 2023, "Accelerating Large Language Model Decoding with Speculative
Sampling", algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.decoder import Decoder
from tiny_transformer.model.kv_cache import check_fits, newest_half
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.runtime.random_state import generator
from tiny_transformer.sampling.generator import evaluating
from tiny_transformer.sampling.strategies import Counts, draw, next_token_probabilities


def accept(p: float, q: float, uniform: float) -> bool:
    """Return whether a proposed token is taken: with probability `min(1, p / q)`.

    Args:
        p: the target's probability of the token.
        q: the draft's, above 0.
        uniform: drawn from [0, 1).
    """
    return uniform * q < p


def residual(p: Float[Tensor, " V"], q: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
    """Return the distribution of the token that replaces a rejected one.

    It is `max(0, p - q)`, divided by its sum: what acceptance left of the target's.

    Args:
        p: the target's distribution, float64.
        q: the draft's.
    """
    left = (p - q).clamp(min=0)
    total = left.sum()
    return left / total if total > 0 else p  # equal ones reject nothing but by rounding


@dataclass
class Statistics:
    """What was proposed and what came of it.

    Each pass of the target gives one token besides those that it accepts, so `accepted +
    passes` tokens were generated.

    Attributes:
        proposed: tokens that the draft proposed.
        accepted: those that were taken.
        passes: forward passes of the target.
    """

    proposed: int = 0
    accepted: int = 0
    passes: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Share of the proposed tokens that were taken; 0 if there were none."""
        return self.accepted / self.proposed if self.proposed else 0.0


def speculative_tokens(
    target: Transformer,
    draft: Transformer,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    n_draft: int = 4,
    forbidden: Sequence[int] = (),
    use_cache: bool = True,
    statistics: Statistics | None = None,
) -> Iterator[int]:
    """Yield `config.max_new_tokens` ids, distributed as the target alone would draw them.

    At temperature 0 they are the ids that the target alone chooses, as long as rounding does
    not decide between two of them: a pass over several tokens rounds other than one over each.

    Args:
        target: the model whose text is wanted; it and the draft are put into evaluation mode
            for each pass, and back into their own.
        draft: a smaller model with the same vocabulary; its context may differ, and a prompt
            longer than it is cropped for it.
        prompt: ids to continue, 1 to the target's `context_length` of them.
        config: strategy, length and seed, for both models; the draws are a function of the
            seed and `n_draft`.
        n_draft: most tokens that are proposed for one pass of the target. Fewer are where
            a context or the text ends.
        forbidden: ids that are never generated.
        use_cache: False computes the whole context for every pass.
        statistics: counts what is proposed and accepted, if given.

    Raises:
        ConfigError: the vocabularies differ in size, or `n_draft` is below 1.
        PromptError: the prompt is empty or longer than the target's context.
    """
    vocab_size = target.config.vocab_size
    if draft.config.vocab_size != vocab_size:
        raise ConfigError(
            f"The draft model has {draft.config.vocab_size} tokens and the target {vocab_size}: "
            "what one proposes the other cannot judge. Train both with one tokenizer."
        )
    if n_draft < 1:
        raise ConfigError(f"n_draft is {n_draft}; it must be at least 1.")
    check_fits(0, len(prompt), target.config.context_length)
    statistics = Statistics() if statistics is None else statistics
    excluded = torch.tensor(list(forbidden), dtype=torch.int64)
    draws = generator(config.seed, "speculative")
    checking, proposing = _Window(target, use_cache), _Window(draft, use_cache)
    ids = list(prompt)

    def probabilities(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Return the distributions after the last N tokens of `ids`."""
        counts = _count(ids, len(prompt), len(logits), vocab_size) if config.penalizes else None
        return next_token_probabilities(logits, config, excluded, counts)

    end = len(prompt) + config.max_new_tokens
    while len(ids) < end:
        known = len(ids)
        room = min(checking.settle(known), proposing.settle(known) + 1)  # the last is not read
        n = min(n_draft, end - known - 1, room)
        to_propose, to_accept, to_end = torch.rand(
            2 * n_draft + 1, generator=draws, dtype=torch.float64
        ).split((n_draft, n_draft, 1))
        with evaluating(target), evaluating(draft):
            q: list[Tensor] = []
            for index in range(n):
                q.append(probabilities(proposing.read(ids, 1))[0])
                ids.append(int(draw(q[-1][None], to_propose[index, None])))
            p = probabilities(checking.read(ids, n + 1))  # (n + 1, V)
            kept = 0
            while kept < n and accept(
                p[kept, ids[known + kept]].item(),
                q[kept][ids[known + kept]].item(),
                to_accept[kept].item(),
            ):
                kept += 1
            del ids[known + kept :]
            last = p[n] if kept == n else residual(p[kept], q[kept])
            ids.append(int(draw(last[None], to_end)))
        statistics.proposed += n
        statistics.accepted += kept
        statistics.passes += 1
        yield from ids[known:]


class _Window:
    """A model, and what it sees of a sequence whose end may be replaced."""

    def __init__(self, model: Transformer, use_cache: bool) -> None:
        self._model, self._device = model, model.lm_head.weight.device
        self._limit = model.config.context_length
        self._decoder = Decoder(model, 1) if use_cache and model.can_cache else None
        self._start = 0  # the first token in sight

    def settle(self, length: int) -> int:
        """Forget what was read of tokens other than the first `length - 1`; slide if full.

        Returns:
            How many more tokens can be seen.
        """
        cache = self._decoder.cache if self._decoder else None
        if cache is not None:
            cache.truncate(min(cache.length, length - 1 - self._start))
        if length - self._start > self._limit:
            self._start = length - newest_half(self._limit)
            if cache is not None:
                cache.clear()
        return self._limit - (length - self._start)

    def read(self, ids: Sequence[int], n_last: int) -> Float[Tensor, "n_last V"]:
        """Return the logits after each of the last `n_last` of `ids`, on the CPU."""
        cache = self._decoder.cache if self._decoder else None
        new = ids[self._start + (cache.length if cache is not None else 0) :]
        tokens = torch.tensor(new, device=self._device)
        if self._decoder and len(new) == 1:
            return self._decoder.step(tokens).cpu()
        logits = self._model(tokens[None], cache, last_only=n_last == 1)  # (1, T or 1, V)
        return logits[0, -n_last:].cpu()


def _count(ids: Sequence[int], n_prompt: int, n_rows: int, vocab_size: int) -> Counts:
    """Count the tokens before each of the next `n_rows` ones, of which the last follows `ids`."""
    before = len(ids) - n_rows + 1  # the first row's
    of_prompt = torch.bincount(torch.tensor(ids[:n_prompt]), minlength=vocab_size)
    generated = torch.tensor(ids[n_prompt:before], dtype=torch.int64)
    later = torch.tensor(ids[before:], dtype=torch.int64)
    first = torch.bincount(generated, minlength=vocab_size)[None]  # (1, V)
    return Counts(
        prompt=of_prompt.expand(n_rows, -1),
        generated=torch.cat([first, first + F.one_hot(later, vocab_size).cumsum(dim=0)]),
    )
