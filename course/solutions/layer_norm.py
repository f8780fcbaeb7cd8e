"""Layer normalisation, answered: module 03. Both are the package's own."""

from __future__ import annotations

from tiny_transformer.model.layer_norm import LayerNorm, explicit_layer_norm

__all__ = ["LayerNorm", "explicit_layer_norm"]
