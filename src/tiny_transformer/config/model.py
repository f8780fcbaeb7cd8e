"""Settings of the model's architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config.checks import (
    check,
    check_at_least,
    check_finite,
)

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu"]
Norm = Literal["layer_norm", "rms_norm"]
Position = Literal["learned", "sinusoidal", "rotary", "none"]
Backend = Literal["fused", "explicit"]
ResidualInit = Literal["scaled", "zero"]


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: a decoder-only, Pre-LN transformer."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    n_layers: int = 4
    """Number of transformer blocks."""
    d_model: int = 256
    """Width of the residual stream."""
    n_heads: int = 4
    """Query heads in each block; divides d_model."""
    n_kv_heads: int | None = None
    """Key and value heads, for grouped-query attention; None means n_heads."""
    d_ff: int | None = None
    """Width inside the MLP; None means 4 x d_model."""
    context_length: int = 256
    """Most tokens that the model sees at once."""
    vocab_size: int = 99
    """Number of tokens; the character vocabulary has 99."""
    dropout: float = 0.1
    """Probability that dropout zeroes a value while training, to the nearest 1/256."""
    activation: Activation = "gelu"
    """Non-linearity of the MLP; gelu is the erf form, gelu_tanh GPT-2's approximation."""
    norm: Norm = "layer_norm"
    """Normalisation before each sub-layer and at the end."""
    norm_eps: float = 1e-5
    """Added to the variance inside the norm."""
    position: Position = "learned"
    """How the model knows where a token stands."""
    rotary_base: float = 10000.0
    """Base of the rotary and sinusoidal wavelengths."""
    token_window: int = 1
    """Last tokens, itself the first, whose embeddings add up to a position's first vector."""
    scale_embeddings: bool = False
    """Multiply token embeddings by the square root of d_model."""
    tie_weights: bool = True
    """Share the token embedding's weight with the output projection."""
    bias: bool = True
    """Biases in linear layers and LayerNorm."""
    qk_norm: bool = False
    """Normalise each head's queries and keys, with the norm of the blocks."""
    residual_init: ResidualInit = "scaled"
    """First weights of projections into the residual stream: scaled by their number, or zero."""
    backend: Backend = "fused"
    """fused is fast; explicit spells every formula out and can return attention weights."""

    def __post_init__(self) -> None:
        for name in (
            "n_layers",
            "d_model",
            "n_heads",
            "context_length",
            "vocab_size",
            "token_window",
        ):
            check_at_least("model", name, getattr(self, name), 1)
        if self.d_ff is not None:
            check_at_least("model", "d_ff", self.d_ff, 1)
        if self.n_kv_heads is not None:
            check_at_least("model", "n_kv_heads", self.n_kv_heads, 1)
        check(
            0 <= self.dropout < 1 and self.dropout_probability < 1,
            f"model.dropout is {self.dropout}; it must be at least 0 and at most 0.998.",
        )
        check_finite("model", "norm_eps", self.norm_eps)
        check(self.norm_eps > 0, f"model.norm_eps is {self.norm_eps}; it must be above 0.")
        check_finite("model", "rotary_base", self.rotary_base)
        check(self.rotary_base > 1, f"model.rotary_base is {self.rotary_base}; it must be above 1.")
        check(
            self.d_model % self.n_heads == 0,
            f"model.d_model is {self.d_model} and model.n_heads is {self.n_heads}: the heads share "
            f"the width, so d_model must be a multiple of n_heads, for instance "
            f"{-(-self.d_model // self.n_heads) * self.n_heads}.",
        )
        check(
            self.n_heads % self.kv_heads == 0,
            f"model.n_kv_heads is {self.n_kv_heads} and model.n_heads is {self.n_heads}: each "
            "key-value head serves equally many query heads, so n_kv_heads must divide n_heads.",
        )
        check(
            self.position != "rotary" or self.head_dim % 2 == 0,
            f"model.position is rotary, which turns pairs of values, but a head is "
            f"{self.head_dim} wide (d_model / n_heads); make it even.",
        )
        check(
            self.position != "sinusoidal" or self.d_model % 2 == 0,
            f"model.position is sinusoidal, which needs an even d_model; got {self.d_model}.",
        )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def dropout_probability(self) -> float:
        """`dropout` as it is applied: rounded to a multiple of 1/256, which eight bits can draw."""
        return round(self.dropout * 256) / 256

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def feed_forward_width(self) -> int:
        """Width inside the MLP."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff
