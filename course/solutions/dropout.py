"""Dropout, answered: module 03. It is the package's own, which draws eight bits for a number."""

from __future__ import annotations

from tiny_transformer.model.dropout import Dropout

__all__ = ["Dropout"]
