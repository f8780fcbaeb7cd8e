"""Continue sequences of ids, token by token.

Notable: the keys and values of past tokens are cached where the model can; each sequence
draws from a generator of its own; when the context is full, its newest half is kept and
encoded again, with or without a cache, so that both give the same text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.decoder import Decoder
from tiny_transformer.model.kv_cache import newest_half
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.distributed import without_gradients
from tiny_transformer.runtime.errors import ConfigError, PromptError
from tiny_transformer.runtime.random_state import generator
from tiny_transformer.sampling.strategies import Counts, draw, next_token_probabilities

_DRAWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Step:
    """The next token of every sequence, on the CPU.

    Attributes:
        ids: int64 `(B,)`.
        logits: the model's, `(B, V)`, before any strategy.
    """

    ids: Int[Tensor, " B"]
    logits: Float[Tensor, "B V"]

    def log_probabilities(self) -> Float[Tensor, "B V"]:
        """Return the model's log-probability of every token, float64, in nats."""
        return self.logits.double().log_softmax(dim=-1)


def generate_steps(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    *,
    seeds: Sequence[int] | None = None,
    forbidden: Sequence[int] = (),
    use_cache: bool = True,
    bias: Mapping[int, float] | None = None,
) -> Iterator[Step]:
    """Yield `config.max_new_tokens` times the next token of each sequence.

    Args:
        model: is put into evaluation mode for each step, and back into its own.
        prompts: ids to continue, 1 to `context_length` each; lengths may differ.
        config: strategy, length and seed; its prompt and stop texts are not looked at.
        seeds: of each sequence; None draws for sequence i from (`config.seed`, i). Either
            way its draws do not depend on the other sequences.
        forbidden: ids that are never generated.
        use_cache: False computes the whole context for every token.
        bias: finite numbers that are added to the logits of these ids before any strategy.
            Source: OpenAI's API reference, "logit_bias".

    Raises:
        PromptError: a prompt is empty or longer than the context.
    """
    limit = model.config.context_length
    for prompt in prompts:
        if not 1 <= len(prompt) <= limit:
            raise PromptError(f"The prompt has {len(prompt)} tokens; the model takes 1 to {limit}.")
    if seeds is not None and len(seeds) != len(prompts):
        raise ConfigError(f"There are {len(seeds)} seeds for {len(prompts)} prompts.")
    keys = [(config.seed, "sample", i) for i in range(len(prompts))]
    uniforms = _uniforms(keys if seeds is None else [(seed, "sample", 0) for seed in seeds])
    excluded = torch.tensor(list(forbidden), dtype=torch.int64)
    counts = _count(prompts, model.config.vocab_size) if config.penalizes else None
    added = torch.zeros(model.config.vocab_size, dtype=torch.float64)
    for token, amount in (bias or {}).items():
        added[token] = amount
    context = _Context(model, prompts, use_cache=use_cache)
    chosen: Tensor | None = None
    for _ in range(config.max_new_tokens):
        with evaluating(model):
            logits = (context.start() if chosen is None else context.append(chosen)).cpu()
            biased = logits.double() + added if bias else logits
            probabilities = next_token_probabilities(biased, config, excluded, counts)
            drawn = draw(probabilities, next(uniforms))
        chosen = drawn.clone()  # a tensor like any other, outside of inference mode
        if counts is not None:
            counts.generated.scatter_add_(1, chosen[:, None], torch.ones_like(chosen)[:, None])
        yield Step(chosen, logits)


def score_prompt(model: Transformer, prompt: Sequence[int]) -> Float[Tensor, "T V"]:
    """Return the model's log-probabilities of what follows each token of `prompt`.

    Args:
        model: is put into evaluation mode, and back into its own.
        prompt: 1 to `context_length` ids.

    Returns:
        float64, in nats, on the CPU; row t is about the token after `prompt[t]`.
    """
    ids = torch.tensor([list(prompt)], device=model.lm_head.weight.device)  # (1, T)
    with evaluating(model):
        logits = model(ids)[0].cpu()  # (T, V)
        return logits.double().log_softmax(dim=-1)


def generate_tokens(
    model: Transformer,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    n_samples: int = 1,
    forbidden: Sequence[int] = (),
    use_cache: bool = True,
) -> Iterator[Int[Tensor, " n_samples"]]:
    """Yield `config.max_new_tokens` times the next id of each continuation of one prompt.

    Args and errors are those of `generate_steps`; sample i draws from (seed, i) alone.
    """
    if n_samples < 1:
        raise ConfigError(f"The number of samples is {n_samples}; it must be at least 1.")
    prompts = [prompt] * n_samples
    for step in generate_steps(model, prompts, config, forbidden=forbidden, use_cache=use_cache):
        yield step.ids


class _Context:
    """What the model looks at: the newest tokens of each sequence, at most its context."""

    def __init__(
        self, model: Transformer, prompts: Sequence[Sequence[int]], *, use_cache: bool
    ) -> None:
        device = model.lm_head.weight.device
        self._limit = model.config.context_length
        self._lengths = [len(prompt) for prompt in prompts]  # of what the model looks at
        self._prompts = [torch.tensor(list(prompt), device=device) for prompt in prompts]
        self._since: list[Tensor] = []  # (B,) each
        self._reader: Decoder | _Reread = _Reread(model)
        if use_cache and model.can_cache:
            decoder = Decoder(model, len(prompts))
            if decoder.takes_unequal or len(set(self._lengths)) == 1:
                self._reader = decoder

    def start(self) -> Float[Tensor, "B V"]:
        """Read everything; return the logits."""
        rows = range(len(self._prompts))
        return self._reader.start_unequal([self._window(row) for row in rows])

    def append(self, chosen: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Add a token to each sequence; return the logits after it."""
        ids = chosen.to(self._prompts[0].device)
        self._since.append(ids)
        self._lengths = [length + 1 for length in self._lengths]
        full = [row for row, length in enumerate(self._lengths) if length > self._limit]
        if not full:
            return self._reader.step(ids)
        for row in full:
            self._lengths[row] = newest_half(self._limit)
        some = len(full) < len(self._lengths) and self._lengths[full[0]] > 1
        if some and isinstance(self._reader, Decoder):
            self._reader.replace({row: self._window(row)[:-1] for row in full})
            return self._reader.step(ids)
        return self.start()

    def _window(self, row: int) -> Int[Tensor, " T"]:
        length = self._lengths[row]
        since = [ids[row : row + 1] for ids in self._since[-length:]]
        return torch.cat([self._prompts[row], *since])[-length:]


class _Reread:
    """Reads everything again for each token: what a model without a cache must do."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def start_unequal(self, sequences: Sequence[Int[Tensor, " T"]]) -> Float[Tensor, "B V"]:
        self._sequences = list(sequences)
        logits: dict[int, Tensor] = {}
        for length in {len(ids) for ids in sequences}:
            rows = [row for row, ids in enumerate(sequences) if len(ids) == length]
            ids = torch.stack([sequences[row] for row in rows])  # (N, T)
            logits |= zip(rows, self._model(ids, last_only=True)[:, -1], strict=True)
        return torch.stack([logits[row] for row in range(len(sequences))])

    def step(self, ids: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        rows = zip(self._sequences, ids.split(1), strict=True)
        return self.start_unequal([torch.cat(row) for row in rows])


def _count(prompts: Sequence[Sequence[int]], vocab_size: int) -> Counts:
    rows = [torch.bincount(torch.tensor(list(p)), minlength=vocab_size) for p in prompts]
    return Counts(torch.stack(rows), torch.zeros(len(rows), vocab_size, dtype=torch.int64))


@contextlib.contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Switch gradients off and the model to evaluation mode; then back."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        with without_gradients(model):
            yield
    finally:
        if was_training:
            model.train()


def _uniforms(keys: Sequence[tuple[int | str, ...]]) -> Iterator[Tensor]:
    """Yield float64 numbers in [0, 1), one for each key, from generators of their own."""
    generators = [generator(*key) for key in keys]
    while True:
        rows = [torch.rand(_DRAWS_AT_ONCE, generator=g, dtype=torch.float64) for g in generators]
        yield from torch.stack(rows, dim=1)
