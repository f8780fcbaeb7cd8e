"""The vocabulary in a GGUF file: the byte-level kind that llama.cpp calls "gpt2".

Notable: such a vocabulary must have a merge, so that of characters has one of two bytes that no
text of ours holds. And it must have tokens that begin and end a text: where ours has none,
characters take `<PAD>`, and byte pairs the byte 0xFF, which no UTF-8 text holds; without them
llama.cpp would end a text at token 11, which is one of ours. The rules that split a text before
pairs are merged are known to llama.cpp by name alone, so only those in the table here leave.
"""

from __future__ import annotations

from typing import Any

from tiny_transformer.interop.base import ExportError
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.bpe_json import byte_letters, is_byte_level
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED = 1, 2, 3, 4, 5  # kinds of token
_NEVER = 0xFF  # a byte that UTF-8 does not have

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_NAMES = {_LLAMA_3: "llama-bpe", _QWEN_2: "qwen2"}
"""Regular expressions before byte letters, and what llama.cpp calls them."""


def add_vocabulary(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Add a tokenizer to a file.

    Args:
        writer: of the package `gguf`.
        tokenizer: characters, or byte-level byte pairs.
        vocab_size: of the model; ids beyond the tokenizer's are marked as unused.

    Raises:
        ExportError: llama.cpp has no name for what the tokenizer does.
    """
    if isinstance(tokenizer, CharTokenizer):
        _add_characters(writer, tokenizer)
    elif isinstance(tokenizer, BpeTokenizer):
        _add_byte_pairs(writer, tokenizer, vocab_size)
    else:
        raise ExportError(f"{type(tokenizer).__name__} cannot be written as GGUF.")
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _add_characters(writer: Any, tokenizer: CharTokenizer) -> None:
    letters = byte_letters()
    n_special = len(tokenizer.special_ids)
    characters = [letters[ord(token)] for token in tokenizer.tokens[n_special:]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*tokenizer.tokens[:n_special], *characters])
    writer.add_token_types([_CONTROL, _UNKNOWN, *[_NORMAL] * len(characters)])
    writer.add_token_merges([f"{letters[0]} {letters[0]}"])
    writer.add_bos_token_id(tokenizer.pad_id)
    writer.add_eos_token_id(tokenizer.pad_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_unk_token_id(tokenizer.unk_id)


def _add_byte_pairs(writer: Any, tokenizer: BpeTokenizer, vocab_size: int) -> None:
    name = pre_tokenizer_name(tokenizer)
    model = tokenizer.spec["model"]
    tokens = [f"<unused {index}>" for index in range(vocab_size)]
    kinds = [_UNUSED] * vocab_size
    for token, index in model["vocab"].items():
        tokens[index], kinds[index] = token, _NORMAL
    for entry in tokenizer.spec.get("added_tokens") or []:
        tokens[entry["id"]] = entry["content"]
        kinds[entry["id"]] = _CONTROL if entry.get("special") else _USER
    end = tokenizer.end_ids[0] if tokenizer.end_ids else model["vocab"].get(byte_letters()[_NEVER])
    if end is None:
        raise ExportError(
            "The tokenizer has neither a token that ends a text nor one for the byte 0xFF, and "
            "llama.cpp would end texts at a token of its own choice."
        )
    kinds[end] = _CONTROL
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges or [f"{byte_letters()[0]} {byte_letters()[0]}"])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)


def pre_tokenizer_name(tokenizer: BpeTokenizer) -> str:
    """Return what llama.cpp calls the rules that split a text before pairs are merged.

    Raises:
        ExportError: it has no name for them, or reads text otherwise.
    """
    spec = tokenizer.spec
    cut = spec.get("pre_tokenizer") or {}
    parts = cut.get("pretokenizers", [cut])
    kinds = [part.get("type") for part in parts]
    prefixed = any(part.get("add_prefix_space") for part in parts)
    if is_byte_level(spec) and not prefixed and _normalizes_nothing(spec.get("normalizer")):
        if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
            regex = parts[0].get("pattern", {}).get("Regex")
            if regex in _NAMES:
                return _NAMES[regex]
        digits = kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits")
        if digits and parts[1].get("use_regex", True):
            return "smollm"
    raise ExportError(
        "GGUF cannot carry this tokenizer: llama.cpp knows by name how GPT-2, Llama 3, Qwen 2 and "
        "SmolLM split a text, and this one does it otherwise. Use --format huggingface."
    )


def _normalizes_nothing(normalizer: Any) -> bool:
    """Return whether text comes through; NFC leaves nearly all, and llama.cpp leaves it out."""
    return normalizer is None or normalizer.get("type") == "NFC"
