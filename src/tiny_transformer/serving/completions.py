"""From a request to the tokens that answer it, and from those to the wire format.

Notable: what is streamed is what is computed, piece by piece, and an answer that is not
streamed is its pieces put together; so both say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import PromptError
from tiny_transformer.sampling.generator import score_prompt
from tiny_transformer.sampling.sampler import (
    NewToken,
    continue_tokens,
    encode_prompt,
    forbidden_ids,
)
from tiny_transformer.serving.errors import ApiError
from tiny_transformer.serving.fields import CompletionRequest, Prompt
from tiny_transformer.serving.settings import Settings
from tiny_transformer.text.tokenizer import Tokenizer

_LEAST_LOG_PROBABILITY = -9999.0  # JSON has no infinity; OpenAI writes this number
_COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")

Piece = dict[str, Any]
"""A piece of one text as it goes over the wire: `index`, `text`, `logprobs`, `finish_reason`."""


@dataclass(frozen=True)
class Part:
    """What one step adds to an answer.

    Attributes:
        pieces: of the texts that go on.
        n_tokens: tokens that were drawn for them.
    """

    pieces: list[Piece]
    n_tokens: int


def encode_prompts(
    prompts: Iterable[Prompt], tokenizer: Tokenizer, context_length: int, settings: Settings
) -> list[list[int]]:
    """Return the ids of each prompt.

    Raises:
        ApiError: a prompt is empty, has unknown characters, or is longer than the context.
    """
    return [_encode(prompt, tokenizer, context_length, settings) for prompt in prompts]


def _encode(
    prompt: Prompt, tokenizer: Tokenizer, context_length: int, settings: Settings
) -> list[int]:
    if isinstance(prompt, str):
        try:
            ids = encode_prompt(prompt, tokenizer, sys.maxsize, errors=settings.errors)
        except PromptError as error:
            remedy = "Leave them out, or start the server with --errors replace."
            if not prompt:
                remedy = 'Give at least one character to continue, for instance "\\n".'
            raise ApiError(f"{error.problem} {remedy}", param="prompt") from None
    else:
        ids = list(prompt)
    if len(ids) > context_length:
        if not settings.crop_prompt:
            raise ApiError(
                f"This model's context is {context_length} tokens, and the prompt has {len(ids)}. "
                "Shorten it, or start the server with --crop-prompt, which keeps a prompt's end.",
                param="prompt",
                code="context_length_exceeded",
            )
        ids = ids[-context_length:]
    return ids


def complete(
    model: Transformer,
    tokenizer: Tokenizer,
    request: CompletionRequest,
    prompts: Sequence[Sequence[int]],
) -> Iterator[Part]:
    """Yield the texts that a request asks for, step by step.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        request: what is asked for.
        prompts: its prompts as ids.

    Text `j` of prompt `i` draws from (seed, `i * best_of + j`): the texts are those that
    `continue_prompts` returns for each prompt `best_of` times, with the same seed. Where only the
    best of them are wanted, they come whole, at the end.
    """
    chosen_later = request.best_of > request.n
    held: list[list[Piece]] = [[] for _ in range(len(prompts) * request.best_of)]

    def part(pieces: Iterable[Piece | None], n_tokens: int = 0) -> Part:
        to_send = [piece for piece in pieces if piece is not None]
        if chosen_later:
            for piece in to_send:
                held[piece["index"]].append(piece)
            to_send = []
        return Part(to_send, n_tokens)

    never = torch.tensor(forbidden_ids(model, tokenizer), dtype=torch.int64)
    texts = [_Text(index, tokenizer, request.logprobs, never) for index in range(len(held))]
    if request.echo:
        for i, prompt in enumerate(prompts):
            scores = score_prompt(model, prompt) if request.logprobs is not None else None
            of_prompt = texts[i * request.best_of : (i + 1) * request.best_of]
            yield part(text.begin(prompt, scores) for text in of_prompt)
    if request.sampling.max_new_tokens == 0:
        yield part(text.piece("", "length") for text in texts)
    for drawn in continue_tokens(
        model,
        tokenizer,
        [prompt for prompt in prompts for _ in range(request.best_of)],
        request.sampling,
        log_probabilities=request.logprobs is not None or chosen_later,
        bias=request.logit_bias,
    ):
        yield part((texts[token.row].add(token) for token in drawn), len(drawn))
    if chosen_later:
        yield Part(_best(texts, held, request), 0)


def _best(
    texts: Sequence[_Text], held: list[list[Piece]], request: CompletionRequest
) -> list[Piece]:
    """Return the n likeliest of each prompt's texts, by the mean of their log-probabilities."""
    pieces: list[Piece] = []
    for first in range(0, len(texts), request.best_of):
        own = range(first, first + request.best_of)
        for row in sorted(own, key=lambda row: -texts[row].mean_log_probability)[: request.n]:
            pieces.append({**join_pieces(held[row])[0], "index": len(pieces)})
    return pieces


class _Text:
    """One text of an answer, while it is written.

    Args:
        index: its place in the answer.
        tokenizer: the model's.
        n_likeliest: how many of the likeliest tokens to list; None lists no log-probabilities.
        never: ids that are never written, and so not listed.
    """

    def __init__(
        self, index: int, tokenizer: Tokenizer, n_likeliest: int | None, never: Int[Tensor, " N"]
    ) -> None:
        self._index, self._tokenizer = index, tokenizer
        self._n_likeliest, self._never = n_likeliest, never
        self._sent = 0  # characters that were sent
        self._spelled = 0  # characters of all tokens so far
        self._waiting: list[tuple[str, float | None, dict[str, float] | None, int]] = []
        self._sum, self._count = 0.0, 0

    @property
    def mean_log_probability(self) -> float:
        """The mean over the tokens that were drawn."""
        return self._sum / self._count if self._count else 0.0

    def begin(self, prompt: Sequence[int], scores: Float[Tensor, "T V"] | None) -> Piece:
        """Return the piece that is the prompt, with the log-probabilities of its tokens."""
        stream, text = self._tokenizer.stream(), ""
        before: list[Tensor | None] = [None, *(() if scores is None else scores[:-1])]
        for place, token in enumerate(prompt):
            spelled = stream.add(token)
            if scores is not None:
                self._note(token, spelled, before[place])
            text += spelled
            self._spelled = len(text)
        text += stream.end()
        self._spelled = len(text)
        return self.piece(text)

    def add(self, token: NewToken) -> Piece | None:
        """Take a token; return the next piece, unless there is nothing to tell yet."""
        if token.log_probabilities is not None:
            self._sum += token.log_probabilities[token.id].item()
            self._count += 1
            if self._n_likeliest is not None:
                self._note(token.id, token.piece, token.log_probabilities)
        self._spelled += len(token.piece)
        if not token.text and token.finish_reason is None:
            return None
        return self.piece(token.text, token.finish_reason)

    def piece(self, text: str, finish_reason: str | None = None) -> Piece:
        """Return the next piece: a text, and the tokens that begin in what is sent by then."""
        self._sent += len(text)
        logprobs = None
        if self._n_likeliest is not None:
            everything = finish_reason == "length"
            ready = [one for one in self._waiting if everything or one[-1] < self._sent]
            self._waiting = self._waiting[len(ready) :]
            logprobs = {name: [one[i] for one in ready] for i, name in enumerate(_COLUMNS)}
        return {
            **{"index": self._index, "text": text, "logprobs": logprobs},
            "finish_reason": finish_reason,
        }

    def _note(self, token: int, spelled: str, row: Float[Tensor, " V"] | None) -> None:
        """Remember a token and its log-probabilities until its text is sent."""
        name, own, listed = spelled or self._name(token), None, None
        if row is not None and self._n_likeliest is not None:
            allowed = row.index_fill(0, self._never, float("-inf"))
            likeliest = allowed.topk(min(self._n_likeliest, len(row))).indices.tolist()
            shown = [i for i in likeliest if allowed[i] > float("-inf")]
            listed = {self._name(i): _writable(row[i].item()) for i in shown}
            own = _writable(row[token].item())
            listed[name] = own  # also where it is not among the likeliest, as OpenAI does
        self._waiting.append((name, own, listed, self._spelled))

    def _name(self, token: int) -> str:
        return self._tokenizer.decode([token]) or self._tokenizer.label(token)


def _writable(log_probability: float) -> float:
    return max(log_probability, _LEAST_LOG_PROBABILITY)


def join_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """Return each text's pieces as one, in the order of their indices."""
    joined: dict[int, Piece] = {}
    for piece in pieces:
        whole = joined.get(piece["index"])
        if whole is None:
            columns = piece["logprobs"] and {name: [] for name in _COLUMNS}
            whole = {**piece, "text": [], "logprobs": columns}
            joined[piece["index"]] = whole
        whole["text"].append(piece["text"])
        whole["finish_reason"] = piece["finish_reason"]
        for name, column in (piece["logprobs"] or {}).items():
            whole["logprobs"][name] += column
    return [{**joined[index], "text": "".join(joined[index]["text"])} for index in sorted(joined)]


def usage(n_prompt: int, n_completion: int) -> dict[str, int]:
    """Return what was counted, in tokens: each prompt once, and every token that was drawn."""
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }
