"""Beam search: several continuations grow side by side, and the likeliest go on.

Notable: a hypothesis that has ended competes with those that go on, until none of them can
overtake it; when the context is full, its newest half is kept and encoded again, as in
`generator.py`. What is found is not always the likeliest continuation of all, nor always as
likely as the greedy one: a beam may leave the greedy path for what looks better at first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.model.decoder import Decoder
from tiny_transformer.model.kv_cache import check_fits, newest_half
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, DivergedError
from tiny_transformer.sampling.generator import evaluating
from tiny_transformer.sampling.strategies import forbid


@dataclass(frozen=True)
class Hypothesis:
    """A continuation that was found.

    Attributes:
        ids: its tokens, without the prompt; the last is an end id if it ended at one.
        log_probability: natural logarithm of its probability after the prompt.
        score: `log_probability / len(ids) ** length_penalty`; higher is better.
    """

    ids: tuple[int, ...]
    log_probability: float
    score: float


def beam_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float = 1.0,
    forbidden: Sequence[int] = (),
    end_ids: Collection[int] = (),
    use_cache: bool = True,
) -> list[Hypothesis]:
    """Return the best continuations of `prompt` that a search of `num_beams` beams finds.

    Args:
        model: is put into evaluation mode, and back into its own.
        prompt: ids that every hypothesis continues, 1 to `context_length` of them.
        max_new_tokens: length of a hypothesis that meets no end id.
        num_beams: hypotheses that go on at each length; 1 is greedy.
        length_penalty: power of the length that divides the log-probability: above 0 favours
            long hypotheses, below 0 short ones.
        forbidden: ids that are never generated; the others share their probability.
        end_ids: ids that end a hypothesis.
        use_cache: False computes the whole context for every token.

    Returns:
        At most `num_beams` different hypotheses, best first. Of equal candidates the one of
        the better beam is taken, then the lower id; of equal results the one found first.

    Raises:
        ConfigError: a number is out of its range.
        PromptError: the prompt is empty or longer than the context.
        DivergedError: the logits are not finite, or every token is forbidden.

    Source: Sutskever et al. 2014, "Sequence to Sequence Learning with Neural Networks",
    section 3.2; the power of the length: Wu et al. 2016, "Google's Neural Machine Translation
    System", section 7. Hugging Face's transformers do the same with `early_stopping="never"`.
    """
    _check_numbers(max_new_tokens, num_beams, length_penalty)
    limit = model.config.context_length
    check_fits(0, len(prompt), limit)
    running, finished = [Hypothesis((), 0.0, 0.0)], []
    if max_new_tokens == 0:
        return running
    contexts = torch.tensor([list(prompt)] * num_beams)  # (num_beams, T)
    rows = None  # which contexts the new ones continue; None when they are read afresh
    with evaluating(model):
        reader = _Reader(model, num_beams, use_cache)
        for length in range(1, max_new_tokens + 1):
            ended, running, rows = _extend(
                running,
                _log_probabilities(reader.read(contexts, rows), forbidden),
                num_beams,
                end_ids,
                length**length_penalty,
                last=length == max_new_tokens,
            )
            finished = sorted(finished + ended, key=lambda h: -h.score)[:num_beams]
            longest = max_new_tokens if length_penalty > 0 else length + 1
            if not running or (
                len(finished) == num_beams
                # A sum of log-probabilities only falls: this is the best that can come.
                and running[0].log_probability / longest**length_penalty <= finished[-1].score
            ):
                break
            newest = torch.tensor([h.ids[-1] for h in running])
            newest = torch.cat([newest, newest[:1].expand(num_beams - len(running))])
            contexts = torch.cat([contexts[rows], newest[:, None]], dim=1)
            if contexts.shape[1] > limit:
                contexts, rows = contexts[:, -newest_half(limit) :], None
    return finished


class _Reader:
    """Returns the logits after contexts that grow by a token, and change places, at each step."""

    def __init__(self, model: Transformer, num_beams: int, use_cache: bool) -> None:
        self._model = model
        self._decoder = Decoder(model, num_beams) if use_cache and model.can_cache else None
        self._device = model.lm_head.weight.device

    def read(
        self, contexts: Int[Tensor, "B T"], rows: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B V"]:
        """Read contexts of which all but the last token is row `rows[i]` of those before."""
        contexts = contexts.to(self._device)
        if self._decoder is None:
            return self._model(contexts, last_only=True)[:, -1].cpu()
        if rows is None:
            return self._decoder.start(contexts).cpu()
        self._decoder.cache.reorder(rows.to(self._device))
        return self._decoder.step(contexts[:, -1]).cpu()


def _extend(
    running: list[Hypothesis],
    log_probabilities: Float[Tensor, "B V"],
    num_beams: int,
    end_ids: Collection[int],
    divisor: float,
    *,
    last: bool,
) -> tuple[list[Hypothesis], list[Hypothesis], Int[Tensor, " B"]]:
    """Return the hypotheses that end, those that go on, and which rows these continue.

    Only those among the `num_beams` best candidates may end; the `last` all do. Rows that are
    left over continue the first.
    """
    sums = torch.tensor([h.log_probability for h in running], dtype=torch.float64)
    totals = (sums[:, None] + log_probabilities[: len(running)]).flatten()  # (running * V,)
    n_candidates = num_beams if last else num_beams * (1 + len(end_ids))
    order = totals.argsort(descending=True, stable=True)[:n_candidates]
    ended: list[Hypothesis] = []
    going_on: list[Hypothesis] = []
    rows: list[int] = []
    for rank, (index, total) in enumerate(zip(order.tolist(), totals[order].tolist(), strict=True)):
        if total == -math.inf or len(going_on) == num_beams:
            break
        row, token = divmod(index, log_probabilities.shape[1])
        hypothesis = Hypothesis((*running[row].ids, token), total, total / divisor)
        if not last and token not in end_ids:
            going_on.append(hypothesis)
            rows.append(row)
        elif rank < num_beams:
            ended.append(hypothesis)
    return ended, going_on, torch.tensor(rows + [0] * (num_beams - len(rows)))


def _log_probabilities(
    logits: Float[Tensor, "B V"], forbidden: Sequence[int]
) -> Float[Tensor, "B V"]:
    """Return the logarithms of the next token's probabilities, float64."""
    found = forbid(logits.double(), forbidden).log_softmax(dim=-1)
    if found.isnan().any():
        raise DivergedError("The model's logits are not finite numbers: its weights are unusable.")
    return found


def _check_numbers(max_new_tokens: int, num_beams: int, length_penalty: float) -> None:
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 0.")
    if num_beams < 1:
        raise ConfigError(f"The number of beams is {num_beams}; it must be at least 1.")
    if not math.isfinite(length_penalty):
        raise ConfigError(f"The length penalty is {length_penalty}; it must be a finite number.")
