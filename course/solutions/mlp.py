"""The feed-forward part, answered: module 03. All are the package's own."""

from __future__ import annotations

from tiny_transformer.model.mlp import MLP, explicit_gelu, explicit_gelu_tanh

__all__ = ["MLP", "explicit_gelu", "explicit_gelu_tanh"]
