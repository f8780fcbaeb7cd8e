"""Generation: sampling at temperature 1 from one token on, within the context.

Ours is `generate_tokens`, the function behind `tiny generate`; the others are called as their
projects document it, with a key-value cache where they have one, without top-k or top-p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tiny_transformer.bench.measure import Budget, Rate, in_turns, rate_of
from tiny_transformer.bench.peers import PROMPT, Peer
from tiny_transformer.bench.report import OURS, Row, section_rows
from tiny_transformer.config import ModelConfig, SamplingConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.generator import generate_tokens


def ours_generator(config: ModelConfig, n_streams: int, new_tokens: int) -> Callable[[], int]:
    """Return a function that generates with our model and returns the number of tokens."""
    model = Transformer(config).eval()
    sampling = SamplingConfig(max_new_tokens=new_tokens)

    def generate() -> int:
        steps = generate_tokens(model, [PROMPT], sampling, n_samples=n_streams, forbidden=(0, 1))
        return sum(chosen.numel() for chosen in steps)

    return generate


def measure_generation(
    config: ModelConfig, budget: Budget, peers: Sequence[Peer], *, n_streams: int
) -> dict[str, Rate]:
    """Return tokens a second of all streams together, for every model."""
    new_tokens = min(budget.new_tokens, config.context_length - 1)
    generators = {OURS: ours_generator(config, n_streams, new_tokens)}
    for peer in peers if n_streams == 1 else [peer for peer in peers if peer.batches]:
        generators[peer.name] = peer.generator(config, n_streams, new_tokens)
    subjects: dict[str, Callable[[], float]] = {
        name: lambda generate=generate: rate_of(generate, n_streams * new_tokens)
        for name, generate in generators.items()
    }
    return in_turns(subjects, budget.rounds)


def generation_rows(
    config: ModelConfig, budget: Budget, peers: Sequence[Peer], *, streams: Sequence[int] = (1, 32)
) -> list[Row]:
    """Return the speed of sampling one stream, and of many side by side."""
    rows = []
    for n_streams in streams:
        rates = measure_generation(config, budget, peers, n_streams=n_streams)
        title = f"generation, {n_streams} stream{'s' if n_streams > 1 else ''}"
        rows += section_rows(title, "tokens/s", rates, ours=OURS)
    return rows
