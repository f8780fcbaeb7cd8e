"""Settings of the data: which text, how it is split, how windows are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tiny_transformer.config.checks import check, check_at_least


@dataclass(frozen=True)
class DataConfig:
    """The corpus and its way to windows."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    corpus: str = "shakespeare"
    """A corpus name (see `tiny data list`), or the path of a text file or a folder of them."""
    tokenizer: str = "characters"
    """`characters`; `bpe` for a byte-pair encoding of `model.vocab_size` tokens, trained on the
    training part; or the path of a vocab.json or tokenizer.json, or of a run that has one."""
    val_fraction: float = 0.05
    """Part of the corpus kept for validation."""
    split_seed: int | None = None
    """None puts the validation part at the end; a number puts it at a seeded place."""
    stride: int | None = None
    """Tokens from one training window to the next; None means the context length."""
    shuffle: bool = True
    """Draw the windows of an epoch in a seeded order; else in the order of the text."""
    transliterate: bool = False
    """Turn accents and curly quotes into ASCII before other characters become unknown."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: refuse the file, or read them as unknown."""

    def __post_init__(self) -> None:
        check(self.corpus != "", "data.corpus is empty; give a corpus name or a path.")
        check(
            self.tokenizer != "",
            "data.tokenizer is empty; give characters, bpe, or the path of a tokenizer.",
        )
        check(
            self.tokenizer == "characters" or not self.transliterate,
            f"data.transliterate goes with characters, and data.tokenizer is {self.tokenizer!r}, "
            "which sees the text as it is. Leave one of them out.",
        )
        check(
            0 < self.val_fraction < 1,
            f"data.val_fraction is {self.val_fraction}; it must be above 0 and below 1, "
            "for instance 0.05.",
        )
        if self.stride is not None:
            check_at_least("data", "stride", self.stride, 1)
