"""Settings of generated text."""

from __future__ import annotations

from dataclasses import dataclass

from tiny_transformer.config.checks import check, check_at_least, check_finite


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
    min_p: float | None = None
    """Keep only tokens at least p times as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that occurred, in the prompt or since; 1 is off."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that were generated."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of generated tokens, once for each time."""
    stop: tuple[str, ...] = ()
    """Texts at which generation ends; they are not part of the result."""
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
        check(
            self.min_p is None or 0 <= self.min_p <= 1,
            f"sampling.min_p is {self.min_p}; it must be between 0 and 1.",
        )
        check(
            0 < self.repetition_penalty < float("inf"),
            f"sampling.repetition_penalty is {self.repetition_penalty}; it must be a number above "
            "0, and 1 is off.",
        )
        check_finite("sampling", "presence_penalty", self.presence_penalty)
        check_finite("sampling", "frequency_penalty", self.frequency_penalty)
        check(
            all(self.stop),
            "sampling.stop has an empty text, which every text ends with; leave it out.",
        )
        check_at_least("sampling", "seed", self.seed, 0)

    @property
    def penalizes(self) -> bool:
        """Whether what has occurred changes what comes next."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)
