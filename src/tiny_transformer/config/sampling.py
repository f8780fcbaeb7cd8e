"""Settings of generated text."""

from __future__ import annotations

from dataclasses import dataclass

from tiny_transformer.config.checks import check, check_at_least


@dataclass(frozen=True)
class SamplingConfig:
    """How logits become text; the default is pure multinomial sampling."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    prompt: str = "\n"
    """Text that the model continues."""
    max_new_tokens: int = 200
    """Tokens to generate."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Keep only the k likeliest tokens."""
    top_p: float | None = None
    """Keep the smallest set of tokens whose probabilities sum to at least p."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        check_at_least("sampling", "max_new_tokens", self.max_new_tokens, 0)
        check(
            0 <= self.temperature < float("inf"),
            f"sampling.temperature is {self.temperature}; it must be a number of at least 0.",
        )
        if self.top_k is not None:
            check_at_least("sampling", "top_k", self.top_k, 1)
        check(
            self.top_p is None or 0 < self.top_p <= 1,
            f"sampling.top_p is {self.top_p}; it must be above 0 and at most 1.",
        )
        check_at_least("sampling", "seed", self.seed, 0)
