"""Characters to token ids and back."""

from tiny_transformer.text.normalize import PLACEHOLDER, normalize_text
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer

__all__ = ["PLACEHOLDER", "CharTokenizer", "Tokenizer", "normalize_text"]
