"""Generation: sampling at temperature 1 with a key-value cache, ours and Hugging Face's.

Each stream starts from one token and stays within the context. Ours is `generate_tokens`,
the function behind `tiny generate`; the peer is `generate` with `do_sample`, without top-k,
top-p or a token that ends the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import Budget, Rate, in_turns, rate_of
from benchmarks.peer import build_gpt2
from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.sampler import generate_tokens

OURS, PEER = "this project", "transformers GPT-2"
_PROMPT = 3  # the newline


def ours_generator(config: ModelConfig, n_streams: int, new_tokens: int) -> Callable[[], int]:
    """Return a function that generates with our model and returns the number of tokens."""
    model = Transformer(config).eval()
    sampling = SamplingConfig(max_new_tokens=new_tokens)

    def generate() -> int:
        steps = generate_tokens(model, [_PROMPT], sampling, n_samples=n_streams, forbidden=(0, 1))
        return sum(chosen.numel() for chosen in steps)

    return generate


def peer_generator(config: ModelConfig, n_streams: int, new_tokens: int) -> Callable[[], int]:
    """Return a function that generates with GPT-2 and returns the number of tokens."""
    from transformers import GenerationConfig

    model: Any = build_gpt2(config).eval()
    prompt = torch.full((n_streams, 1), _PROMPT)
    settings = GenerationConfig(
        do_sample=True,
        max_new_tokens=new_tokens,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        pad_token_id=0,
        eos_token_id=None,
    )

    def generate() -> int:
        texts = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), generation_config=settings
        )
        return texts.numel() - prompt.numel()

    return generate


def measure_generation(config: ModelConfig, budget: Budget, *, n_streams: int) -> dict[str, Rate]:
    """Return tokens a second of all streams together, for both models."""
    new_tokens = min(budget.new_tokens, config.context_length - 1)
    generators = {
        OURS: ours_generator(config, n_streams, new_tokens),
        PEER: peer_generator(config, n_streams, new_tokens),
    }
    subjects: dict[str, Callable[[], float]] = {
        name: lambda generate=generate: rate_of(generate, n_streams * new_tokens)
        for name, generate in generators.items()
    }
    return in_turns(subjects, budget.rounds)
