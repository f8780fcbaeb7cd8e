"""Tiny Transformer: learn transformers by building one, and train the one you built."""
