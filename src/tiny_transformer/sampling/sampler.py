"""Continue a prompt, token by token.

Notable: the keys and values of past tokens are cached where the model can; each sample
draws from a generator of its own; when the context is full, its newest half is kept and
encoded again, with or without a cache, so that both give the same text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.decoder import Decoder
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.runtime.random_state import generator
from tiny_transformer.sampling.strategies import draw, next_token_probabilities
from tiny_transformer.text.tokenizer import CharTokenizer

_DRAWS_AT_ONCE = 1024


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


def generate_tokens(
    model: Transformer,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    n_samples: int = 1,
    forbidden: Sequence[int] = (),
    use_cache: bool = True,
) -> Iterator[Int[Tensor, " n_samples"]]:
    """Yield `config.max_new_tokens` times the next id of each sample, on the CPU.

    Args:
        model: is put into evaluation mode for each step, and back into its own.
        prompt: ids that every sample continues, 1 to `context_length` of them.
        config: strategy, length and seed; sample i draws from (seed, i) alone.
        n_samples: how many continuations, generated side by side.
        forbidden: ids that are never generated.
        use_cache: False computes the whole context for every token.

    Raises:
        PromptError: the prompt is empty or longer than the context.
    """
    if n_samples < 1:
        raise ConfigError(f"The number of samples is {n_samples}; it must be at least 1.")
    limit = model.config.context_length
    if not 1 <= len(prompt) <= limit:
        raise PromptError(f"The prompt has {len(prompt)} tokens; the model takes 1 to {limit}.")
    device = model.lm_head.weight.device
    reader = Decoder(model, n_samples) if use_cache and model.can_cache else _Reread(model)
    uniforms = _uniforms(config.seed, n_samples)
    excluded = torch.tensor(list(forbidden), dtype=torch.int64)
    seen = [torch.tensor([list(prompt)] * n_samples, device=device)]  # (B, T), then (B, 1)
    length = len(prompt)  # of what the model looks at
    for _ in range(config.max_new_tokens):
        with _evaluating(model):
            logits = reader.start(seen[0]) if len(seen) == 1 else reader.step(seen[-1][:, 0])
            probabilities = next_token_probabilities(logits.cpu(), config, excluded)
            drawn = draw(probabilities, next(uniforms))
        chosen = drawn.clone()  # a tensor like any other, outside of inference mode
        yield chosen
        seen.append(chosen[:, None].to(device))
        length += 1
        if length > limit:
            length = max(1, limit // 2)
            seen = [torch.cat(seen, dim=1)[:, -length:]]


class _Reread:
    """Reads everything again for each token: what a model without a cache must do."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def start(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        self._ids = ids
        return self._model(ids, last_only=True)[:, -1]

    def step(self, ids: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        return self.start(torch.cat([self._ids, ids[:, None]], dim=1))


@contextlib.contextmanager
def _evaluating(model: Transformer) -> Iterator[None]:
    """Switch gradients off and the model to evaluation mode; then back."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if was_training:
            model.train()


def _uniforms(seed: int, n_samples: int) -> Iterator[Tensor]:
    """Yield float64 numbers in [0, 1), one a sample, from generators of (seed, sample)."""
    generators = [generator(seed, "sample", index) for index in range(n_samples)]
    while True:
        rows = [torch.rand(_DRAWS_AT_ONCE, generator=g, dtype=torch.float64) for g in generators]
        yield from torch.stack(rows, dim=1)


def stream_text(
    model: Transformer,
    tokenizer: CharTokenizer,
    config: SamplingConfig,
    *,
    errors: str = "strict",
    crop: bool = False,
) -> Iterator[str]:
    """Yield the continuation of `config.prompt` piece by piece, as it is generated."""
    prompt = encode_prompt(
        config.prompt, tokenizer, model.config.context_length, errors=errors, crop=crop
    )
    for chosen in generate_tokens(model, prompt, config, forbidden=tokenizer.special_ids):
        yield tokenizer.decode(chosen)


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
        n_samples: how many.
        errors: what to do with unknown characters of the prompt (see `encode_prompt`).
        crop: keep the end of a prompt that is longer than the context.
        use_cache: False computes the whole context for every token.

    Returns:
        Texts of exactly `config.max_new_tokens` characters each.

    Raises:
        PromptError: the prompt cannot be encoded.
    """
    config = config or SamplingConfig()
    prompt = encode_prompt(
        config.prompt, tokenizer, model.config.context_length, errors=errors, crop=crop
    )
    steps = generate_tokens(
        model,
        prompt,
        config,
        n_samples=n_samples,
        forbidden=tokenizer.special_ids,
        use_cache=use_cache,
    )
    columns = list(steps)
    if not columns:
        return [""] * n_samples
    return [tokenizer.decode(row) for row in torch.stack(columns, dim=1)]
