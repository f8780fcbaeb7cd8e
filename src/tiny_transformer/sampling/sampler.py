"""From a prompt to the text that continues it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.sampling.generator import generate_steps
from tiny_transformer.text.tokenizer import CharTokenizer


def encode_prompt(
    prompt: str,
    tokenizer: CharTokenizer,
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
                f"The prompt has {len(ids)} characters; the model sees {context_length} at once.",
                "Shorten it, or keep its end with --crop-prompt.",
            )
        ids = ids[-context_length:]
    return ids


class StoppableText:
    """A text that grows and ends before the first stop text in it.

    Args:
        stop: the stop texts, none of them empty.

    Attributes:
        text: what is certain so far: no stop text begins in it.
        stopped: whether a stop text has come.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""  # may be the beginning of a stop text
        self.text = ""
        self.stopped = False

    def add(self, piece: str) -> str:
        """Take the next piece; return what has become certain."""
        if self.stopped:
            return ""
        self._held += piece
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        longest = max(map(len, self._stop), default=1)
        for start in range(max(0, len(self._held) - longest + 1), len(self._held)):
            if any(stop.startswith(self._held[start:]) for stop in self._stop):
                return self._release(start)
        return self._release(len(self._held))

    def end(self) -> str:
        """Nothing more will come; return what was held back."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        self.text += released
        return released


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
    tokenizer: CharTokenizer,
    prompts: Sequence[str],
    config: SamplingConfig,
    *,
    seeds: Sequence[int] | None = None,
    end_ids: Sequence[int] = (),
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
        end_ids: tokens that end a text and are not part of it.
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
    rows = [_Row(StoppableText(config.stop)) for _ in prompts]
    steps = generate_steps(
        model,
        encoded,
        config,
        seeds=seeds,
        forbidden=tokenizer.special_ids,
        use_cache=use_cache,
    )
    for step in steps:
        of_all = step.log_probabilities() if log_probabilities else None
        for index, (row, chosen) in enumerate(zip(rows, step.ids.tolist(), strict=True)):
            if row.ended:
                continue
            row.ids.append(chosen)
            if of_all is not None:
                row.log_probabilities.append(of_all[index, chosen].item())
            if chosen in end_ids:
                row.ended = True
            elif config.stop:
                row.text.add(tokenizer.decode([chosen]))
                row.ended = row.text.stopped
        if all(row.ended for row in rows):
            break
    for row in rows:
        if not config.stop:
            row.text.add(tokenizer.decode([i for i in row.ids if i not in end_ids]))
        row.text.end()
    return [row.continuation() for row in rows]


class _Row:
    """A continuation in the making."""

    def __init__(self, text: StoppableText) -> None:
        self.text = text
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.ended = False

    def continuation(self) -> Continuation:
        reason = "stop" if self.ended else "length"
        return Continuation(self.text.text, tuple(self.ids), tuple(self.log_probabilities), reason)


def stream_text(
    model: Transformer,
    tokenizer: CharTokenizer,
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
    steps = generate_steps(model, [prompt], config, forbidden=tokenizer.special_ids)
    yield from text_of((int(step.ids) for step in steps), tokenizer, config.stop)


def text_of(ids: Iterator[int], tokenizer: CharTokenizer, stop: Sequence[str]) -> Iterator[str]:
    """Yield the text of ids as they come, up to the first stop text; it then asks for no more."""
    text = StoppableText(stop)
    for chosen in ids:
        if piece := text.add(tokenizer.decode([chosen])):
            yield piece
        if text.stopped:
            return
    if piece := text.end():
        yield piece


def sample_text(
    model: Transformer,
    tokenizer: CharTokenizer,
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
        Texts of `config.max_new_tokens` characters each, or fewer where a stop text came.

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
