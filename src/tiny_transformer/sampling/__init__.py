"""Logits to text."""
