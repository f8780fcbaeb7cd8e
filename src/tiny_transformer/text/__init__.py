"""Text to token ids, and back: characters, or byte pairs."""

from tiny_transformer.text.normalize import PLACEHOLDER, normalize_text
from tiny_transformer.text.tokenizer import CharTokenizer, TextStream, Tokenizer

__all__ = ["PLACEHOLDER", "CharTokenizer", "TextStream", "Tokenizer", "normalize_text"]
