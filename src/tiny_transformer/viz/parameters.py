"""How many parameters a config asks for, and how many operations a token costs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tiny_transformer.config import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Number of parameters of each component over all layers; shared weights count once."""

    token_embedding: int
    """`V C` for each token of the window."""
    positions: int
    """`T C` where positions are learned, else 0."""
    attention: int
    """Projections to queries, keys and values, and back."""
    mlp: int
    """Projections of the MLP."""
    norms: int
    """Scales and shifts, those of QK-norm included."""
    output_head: int
    """`V C`, or 0 where it is the token embedding."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.astuple(self))


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Return how many parameters a `Transformer` of this architecture has, by component.

    Args:
        config: the architecture.

    Returns:
        Counts, not bytes.
    """
    C, F, L = config.d_model, config.feed_forward_width, config.n_layers
    table = config.vocab_size * C
    attention_biases = 2 * C + 2 * kv_width(config)
    mlp_biases = F * (n_mlp_matrices(config) - 1) + C
    norm = 2 * C if config.norm == "layer_norm" and config.bias else C
    qk_norm = 2 * config.head_dim if config.qk_norm else 0
    return ParameterCount(
        token_embedding=config.token_window * table,
        positions=config.context_length * C if config.position == "learned" else 0,
        attention=L * (_attention_matrices(config) + config.bias * attention_biases),
        mlp=L * (_mlp_matrices(config) + config.bias * mlp_biases),
        norms=(2 * L + 1) * norm + L * qk_norm,
        output_head=0 if config.tie_weights else table,
    )


def kv_width(config: ModelConfig) -> int:
    """Return the width of all key heads together (the value heads are as wide)."""
    return config.kv_heads * config.head_dim


def n_mlp_matrices(config: ModelConfig) -> int:
    """Return the number of matrices in one MLP."""
    return 3 if config.activation == "swiglu" else 2


def _attention_matrices(config: ModelConfig) -> int:
    return 2 * config.d_model * (config.d_model + kv_width(config))


def _mlp_matrices(config: ModelConfig) -> int:
    return n_mlp_matrices(config) * config.d_model * config.feed_forward_width


def block_matrix_parameters(config: ModelConfig) -> int:
    """Return the number of parameters in the matrices of all blocks."""
    return config.n_layers * (_attention_matrices(config) + _mlp_matrices(config))


def flops_per_token(config: ModelConfig) -> int:
    """Return the floating-point operations of one trained token, forward and backward.

    `6 N + 12 L T C`: each of N parameters multiplies and adds once forward (2) and twice
    backward (4); attention over T keys adds `2 T C` for the scores and `2 T C` for the
    weighted sum in each layer, three times as much with backward. The causal mask is not
    deducted, so that numbers compare with the literature.

    N is every parameter, shared ones once, without the token tables that are not tied to the
    output: they are looked up and multiply nothing. The base config: 22.6 million operations
    a token.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1 (who
    leave out all embeddings); Chowdhery et al. 2022, "PaLM", appendix B.
    """
    count = count_parameters(config)
    table = config.vocab_size * config.d_model
    looked_up = count.token_embedding - (table if config.tie_weights else 0)
    attention = 12 * config.n_layers * config.context_length * config.d_model
    return 6 * (count.total - looked_up) + attention
