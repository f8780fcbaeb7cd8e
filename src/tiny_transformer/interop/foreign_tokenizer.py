"""The tokenizer of a Hugging Face folder: a byte-pair encoding, or our own characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_transformer.interop.base import ImportRefusedError
from tiny_transformer.interop.foreign_fields import LARGEST_JSON, read_json
from tiny_transformer.interop.huggingface_tokenizer import TOKENIZER, spells_characters
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.tokenizer import CharTokenizer, Tokenizer

_VOCABULARY, _MERGES, _SETTINGS = "vocab.json", "merges.txt", "tokenizer_config.json"
_BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}


def read_foreign_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder: `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`.

    Raises:
        ImportRefusedError: the folder has none, or a damaged one; the message says what to put
            there.
        VocabularyError: it is of a kind that is not carried, or the package `tokenizers` is
            missing.
    """
    path = folder / TOKENIZER
    if path.is_file():
        spec = read_json(path)
        if spells_characters(spec):
            return CharTokenizer()
        return BpeTokenizer.from_json(path.read_text(encoding="utf-8"), where=str(path))
    if (folder / _VOCABULARY).is_file() and (folder / _MERGES).is_file():
        return BpeTokenizer.from_json(_from_merges(folder), where=str(folder / _VOCABULARY))
    also = "."
    if (folder / "tokenizer.model").is_file() or (folder / _VOCABULARY).is_file():
        also = (
            ", and makes it from the older files that are there: "
            'python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{folder}').save_pretrained('NEW')\"."
        )
    raise ImportRefusedError(
        f"{folder} has no {TOKENIZER}, so nobody could type a text to the model. Put there the one "
        f"that belongs to it; transformers writes it with save_pretrained{also}"
    )


def _from_merges(folder: Path) -> str:
    """Return the `tokenizer.json` that GPT-2's two older files amount to."""
    vocabulary, merges = read_json(folder / _VOCABULARY), _merges(folder / _MERGES)
    end = "<|endoftext|>"
    if _puts_space_first(folder):
        raise ImportRefusedError(
            f"{folder / _SETTINGS} has add_prefix_space, with which {_VOCABULARY} and {_MERGES} "
            f"alone are not carried. Put the {TOKENIZER} there that transformers writes."
        )
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": vocabulary.get(end), "content": end, "special": True, **special}]
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added if type(vocabulary.get(end)) is int else [],
        "normalizer": None,
        "pre_tokenizer": {**_BYTE_LEVEL, "add_prefix_space": False},
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
    return json.dumps(whole)


def _merges(path: Path) -> list[list[str]]:
    if path.stat().st_size > LARGEST_JSON:
        raise ImportRefusedError(
            f"The file {path} has {path.stat().st_size:,} bytes: far too many."
        )
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ImportRefusedError(f"{path} is damaged: it is not UTF-8 ({error.reason}).") from None
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    for number, pair in enumerate(pairs, start=1):
        if len(pair) != 2:
            raise ImportRefusedError(f"{path} is damaged: merge {number} is {' '.join(pair)!r}.")
    return pairs


def _puts_space_first(folder: Path) -> bool:
    settings = folder / _SETTINGS
    return settings.is_file() and bool(read_json(settings).get("add_prefix_space"))
