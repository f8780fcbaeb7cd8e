"""Tokenizers as other people's folders have them, small, and built with the library itself."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

TEXT = (
    "The king said: don't go, it's 1234 o'clock!\n\nWe're here...  two  spaces\r\nA line. Another "
    "line, the king and the queen and the kingdom.\n\tTabbed the line; café, naïve, 中文 字, 😀.\n"
    # White space in runs, so that tokens of white space are made, which a wrong cut would split.
    "if x:    \n        return 1   \n    \n\n\nelse:\t\t\n        return   2 \n \n"
) * 4
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"


def _byte_level(pre_tokenizer: Any, vocab_size: int = 345) -> Tokenizer:
    made: Any = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    return made


def gpt2() -> Tokenizer:
    """Return one with GPT-2's rules, and a special token that is a part of its vocabulary."""
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def llama3() -> Tokenizer:
    """Return one with Llama 3's rules, which puts a special token before every text."""
    split = pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made: Any = _byte_level(pre_tokenizers.Sequence([split, letters]))
    made.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, made.token_to_id(END))]
    )
    made.enable_truncation(8)
    made.add_tokens(["kingdom come"])  # an added token of the plain kind
    return made


def smollm() -> Tokenizer:
    """Return one with SmolLM's rules: each digit a token."""
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    return _byte_level(pre_tokenizers.Sequence([digits, letters]))


def prefixed() -> Tokenizer:
    """Return one that puts a space before a text, as RoBERTa's does."""
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def unsplit() -> Tokenizer:
    """Return one whose tokens reach across words."""
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


def llama2(*, byte_fallback: bool = True) -> Tokenizer:
    """Return one as Llama 2's: a space is `▁`, one stands before a text, rare bytes are tokens."""
    trained: Any = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    plain = "".join(c for c in TEXT if c.isascii() and c not in "\t\r\n")
    trained.train_from_iterator([plain], BpeTrainer(vocab_size=120, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    made: Any = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made
