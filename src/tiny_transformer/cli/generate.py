"""`tiny generate`: continue a prompt with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tiny_transformer.cli.options import Device, FlatRun, parse
from tiny_transformer.config import SamplingConfig
from tiny_transformer.runtime.device import resolve_device
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.sampling.sampler import sample_text, stream_text
from tiny_transformer.training.checkpoint import open_checkpoint


@dataclass(frozen=True)
class Generate:
    """Continue a prompt. The same seed gives the same text."""

    run: FlatRun
    prompt: str = "\n"
    """Text to continue."""
    max_new_tokens: int = 500
    """Tokens to generate."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Keep only the k likeliest tokens."""
    top_p: float | None = None
    """Keep the smallest set of tokens whose probabilities sum to at least p."""
    seed: int = 0
    """Seed of the draws."""
    num_samples: int = 1
    """How many continuations."""
    errors: Literal["strict", "replace"] = "strict"
    """Refuse a prompt's unknown characters, or read them as unknown."""
    crop_prompt: bool = False
    """Keep the end of a prompt that is longer than the context."""
    device: Device = "auto"
    """auto takes CUDA, then MPS, then CPU."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Generate, arguments, "generate")
    config = SamplingConfig(
        prompt=options.prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    if options.num_samples < 1:
        raise ConfigError(f"--num-samples is {options.num_samples}; it must be at least 1.")
    checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)[1]
    model = checkpoint.build_model(device=resolve_device(options.device))
    tokenizer, how = checkpoint.tokenizer, {"errors": options.errors, "crop": options.crop_prompt}
    if options.num_samples == 1:
        pieces = stream_text(model, tokenizer, config, **how)
        first = next(pieces, "")  # a refused prompt prints nothing
        sys.stdout.write(options.prompt + first)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return 0
    texts = sample_text(model, tokenizer, config, n_samples=options.num_samples, **how)
    for index, text in enumerate(texts, start=1):
        print(f"--- sample {index} of {len(texts)} ---\n{options.prompt}{text}")
    return 0
