"""From a prompt to the text that continues it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.sampling.generator import generate_steps
from tiny_transformer.sampling.stopping import StoppableText
from tiny_transformer.text.tokenizer import Tokenizer


def encode_prompt(
    prompt: str,
    tokenizer: Tokenizer,
    context_length: int,
    *,
    errors: str = "strict",
    crop: bool = False,
) -> list[int]:
    """Turn a prompt into ids, or say why it cannot be one.

    Args:
        prompt: any text of at least one character.
        tokenizer: the model's.
        context_length: most tokens the model sees at once.
        errors: `"strict"` refuses characters outside the vocabulary, `"replace"` reads
            them as unknown.
        crop: keep the end of a prompt that is longer than the context.

    Raises:
        PromptError: the prompt is empty, unknown in part, or too long.
    """
    unknown = tokenizer.unknown_characters(prompt)
    if unknown and errors != "replace":
        shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:5])
        raise PromptError(
            f"The prompt has characters outside the model's vocabulary: {shown}.",
            "Leave them out, or read them as unknown with --errors replace.",
        )
    ids = tokenizer.encode(prompt).tolist()
    if not ids:
        raise PromptError(
            "The prompt is empty.",
            "The model needs at least one character to continue, for instance a line break: "
            "--prompt $'\\n'.",
        )
    if len(ids) > context_length:
        if not crop:
            raise PromptError(
                f"The prompt has {len(ids)} {tokenizer.unit}s; the model sees {context_length} at "
                "once.",
                "Shorten it, or keep its end with --crop-prompt.",
            )
        ids = ids[-context_length:]
    return ids


def forbidden_ids(
    model: Transformer, tokenizer: Tokenizer, end_ids: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Return the ids that must not be generated: those that spell no text.

    They are the special ones, but for those that end a text, and those that the model has
    beyond its tokenizer's, as imported models may.

    Args:
        model: whose ids they are.
        tokenizer: the one that it was trained with.
        end_ids: ids that end a text; None takes the tokenizer's.
    """
    ends = tokenizer.end_ids if end_ids is None else end_ids
    special = (token for token in tokenizer.special_ids if token not in ends)
    return (*special, *range(tokenizer.vocab_size, model.config.vocab_size))


@dataclass(frozen=True)
class NewToken:
    """A token of one of several continuations, as it is drawn.

    Attributes:
        row: which continuation, counted from 0.
        id: the token.
        piece: the text that it spells; the bytes of half a character wait for the next.
        text: what has become certain of the continuation with it (see `StoppableText`).
        log_probabilities: the model's of every token, `(V,)` float64 in nats; None if not
            asked for.
        finish_reason: `"stop"` at a stop text or an end token, `"length"` at the last of
            `max_new_tokens`; None where the continuation goes on.
    """

    row: int
    id: int
    piece: str
    text: str
    log_probabilities: Float[Tensor, " V"] | None
    finish_reason: Literal["stop", "length"] | None


def continue_tokens(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    *,
    seeds: Sequence[int] | None = None,
    end_ids: Sequence[int] | None = None,
    use_cache: bool = True,
    log_probabilities: bool = False,
    bias: Mapping[int, float] | None = None,
) -> Iterator[list[NewToken]]:
    """Yield the next token of every continuation that has not ended, until all have.

    Args are those of `continue_prompts`, but the prompts are ids, and

        end_ids: None takes the tokenizer's.
        bias: is added to the logits of these ids before anything else (see `generate_steps`).

    Raises:
        PromptError: a prompt is empty or longer than the context.
    """
    ends = tokenizer.end_ids if end_ids is None else end_ids
    texts = [StoppableText(config.stop) for _ in prompts]
    streams = [tokenizer.stream(continues=True) for _ in prompts]
    going_on = list(range(len(prompts)))
    steps = generate_steps(
        model,
        prompts,
        config,
        seeds=seeds,
        forbidden=forbidden_ids(model, tokenizer, ends),
        use_cache=use_cache,
        bias=bias,
    )
    for number, step in enumerate(steps, start=1):
        of_all = step.log_probabilities() if log_probabilities else None
        ids, drawn = step.ids.tolist(), []
        for row in going_on:
            chosen, text = ids[row], texts[row]
            ended, last = chosen in ends, number == config.max_new_tokens
            piece = "" if ended else streams[row].add(chosen)
            if ended or last:
                piece += streams[row].end()
            certain = text.add(piece)
            reason = "stop" if ended or text.stopped else "length" if last else None
            if reason is not None:
                certain += text.end()
            own = None if of_all is None else of_all[row]
            drawn.append(NewToken(row, chosen, piece, certain, own, reason))
        going_on = [token.row for token in drawn if token.finish_reason is None]
        yield drawn
        if not going_on:
            return


@dataclass(frozen=True)
class Continuation:
    """What a prompt was continued with.

    Attributes:
        text: without the prompt, and without a stop text.
        ids: every token drawn, those of a stop text too.
        log_probabilities: the model's, of each id, in nats; empty if not asked for.
        finish_reason: `"stop"` at a stop text or an end token, else `"length"`.
    """

    text: str
    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


def continue_prompts(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: SamplingConfig,
    *,
    seeds: Sequence[int] | None = None,
    end_ids: Sequence[int] | None = None,
    errors: str = "strict",
    crop: bool = False,
    use_cache: bool = True,
    log_probabilities: bool = False,
) -> list[Continuation]:
    """Continue prompts of any lengths side by side.

    Args:
        model: a trained (or untrained) model.
        tokenizer: the one that it was trained with.
        prompts: at least one; they take the place of `config.prompt`.
        config: strategy, length, stop texts and seed.
        seeds: of each prompt; None draws for prompt i from (`config.seed`, i).
        end_ids: tokens that end a text and are not part of it; None takes the tokenizer's.
        errors: what to do with unknown characters of a prompt (see `encode_prompt`).
        crop: keep the end of a prompt that is longer than the context.
        use_cache: False computes the whole context for every token.
        log_probabilities: whether to compute them.

    Raises:
        PromptError: a prompt cannot be encoded.
    """
    if not prompts:
        raise ConfigError("There is no prompt to continue; give at least one.")
    limit = model.config.context_length
    encoded = [encode_prompt(p, tokenizer, limit, errors=errors, crop=crop) for p in prompts]
    rows = [_Row() for _ in prompts]
    for drawn in continue_tokens(
        model,
        tokenizer,
        encoded,
        config,
        seeds=seeds,
        end_ids=end_ids,
        use_cache=use_cache,
        log_probabilities=log_probabilities,
    ):
        for token in drawn:
            rows[token.row].add(token)
    return [row.continuation() for row in rows]


class _Row:
    """A continuation in the making."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._log_probabilities: list[float] = []
        self._reason: Literal["stop", "length"] = "length"

    def add(self, token: NewToken) -> None:
        self._pieces.append(token.text)
        self._ids.append(token.id)
        if token.log_probabilities is not None:
            self._log_probabilities.append(token.log_probabilities[token.id].item())
        self._reason = token.finish_reason or self._reason

    def continuation(self) -> Continuation:
        text = "".join(self._pieces)
        return Continuation(text, tuple(self._ids), tuple(self._log_probabilities), self._reason)


def stream_text(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    *,
    errors: str = "strict",
    crop: bool = False,
) -> Iterator[str]:
    """Yield the continuation of `config.prompt` piece by piece, as it is generated.

    What may be the beginning of a stop text waits until it is not.
    """
    prompt = encode_prompt(
        config.prompt, tokenizer, model.config.context_length, errors=errors, crop=crop
    )
    for drawn in continue_tokens(model, tokenizer, [prompt], config):
        for token in drawn:
            if token.text:
                yield token.text


def text_of(ids: Iterator[int], tokenizer: Tokenizer, stop: Sequence[str]) -> Iterator[str]:
    """Yield the text of ids that continue a prompt, as they come.

    At the first stop text or end token it ends, and asks for no more ids.
    """
    text, stream = StoppableText(stop), tokenizer.stream(continues=True)
    for chosen in ids:
        if chosen in tokenizer.end_ids:
            break
        if piece := text.add(stream.add(chosen)):
            yield piece
        if text.stopped:
            return
    if piece := text.add(stream.end()) + text.end():
        yield piece


def sample_text(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplingConfig | None = None,
    *,
    n_samples: int = 1,
    errors: str = "strict",
    crop: bool = False,
    use_cache: bool = True,
) -> list[str]:
    """Return `n_samples` continuations of `config.prompt`, without the prompt.

    Args:
        model: a trained (or untrained) model.
        tokenizer: the one that it was trained with.
        config: prompt, strategy, length and seed; the default samples 200 tokens.
        n_samples: how many; sample i draws from (seed, i) alone.
        errors: what to do with unknown characters of the prompt (see `encode_prompt`).
        crop: keep the end of a prompt that is longer than the context.
        use_cache: False computes the whole context for every token.

    Returns:
        Texts of `config.max_new_tokens` tokens each, or fewer where a stop text or an end token
        came.

    Raises:
        PromptError: the prompt cannot be encoded.
    """
    config = config or SamplingConfig()
    if n_samples < 1:
        raise ConfigError(f"The number of samples is {n_samples}; it must be at least 1.")
    continued = continue_prompts(
        model,
        tokenizer,
        [config.prompt] * n_samples,
        config,
        errors=errors,
        crop=crop,
        use_cache=use_cache,
    )
    return [continuation.text for continuation in continued]
