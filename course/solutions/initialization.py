"""First weights, answered: module 03. The function is the package's own."""

from __future__ import annotations

from tiny_transformer.model.initialization import residual_std

__all__ = ["residual_std"]
