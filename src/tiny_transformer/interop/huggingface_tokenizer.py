"""A tokenizer as a `tokenizer.json`: the same ids for every text as ours.

Text that reads like a special token is text like any other, as with us.
"""

from __future__ import annotations

import json
from typing import Any

from tiny_transformer.interop.base import ExportError
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.tokenizer import PAD, UNK, CharTokenizer, Tokenizer

_MOST_COMPARED = 5000  # tokens of a large vocabulary
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def tokenizer_files(tokenizer: Tokenizer, context_length: int) -> dict[str, str]:
    """Return the two files of a tokenizer by name, as text.

    Transliteration is left out: this format has no table of spellings. A character that ours
    would spell in ASCII is unknown to it.

    Raises:
        ExportError: it is neither characters nor byte pairs.
    """
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if isinstance(tokenizer, CharTokenizer):
        content = _characters(tokenizer)
        settings |= {"unk_token": UNK, "pad_token": PAD}
    elif isinstance(tokenizer, BpeTokenizer):
        content = tokenizer.to_json()
        if tokenizer.end_ids:
            end = tokenizer.special_name(tokenizer.end_ids[0])
            settings |= {"eos_token": end, "pad_token": end}
    else:
        raise ExportError(f"{type(tokenizer).__name__} cannot be written as {TOKENIZER}.")
    return {TOKENIZER: content, SETTINGS: json.dumps(settings, indent=2) + "\n"}


def _characters(tokenizer: CharTokenizer) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {token: index for index, token in enumerate(tokenizer.tokens)}
    built = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    built.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [normalizers.Replace("\r\n", "\n"), normalizers.Replace("\r", "\n")]
    )
    every = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    built.pre_tokenizer = every  # pyright: ignore[reportAttributeAccessIssue]
    built.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return built.to_str(pretty=True) + "\n"


def spells_characters(spec: dict[str, Any]) -> bool:
    """Return whether the JSON of a `tokenizer.json` is the character vocabulary's."""
    model, cut = spec.get("model"), spec.get("pre_tokenizer")
    if not isinstance(model, dict) or not isinstance(cut, dict):
        return False
    ids = {token: index for index, token in enumerate(CharTokenizer.tokens)}
    same = model.get("type") == "WordLevel" and model.get("vocab") == ids
    return same and cut.get("type") == "Split" and not spec.get("added_tokens")


def check_tokenizer(theirs: Any, ours: Tokenizer) -> None:
    """Compare ids of every token's text, and of what is unknown, special or not ASCII.

    Args:
        theirs: a tokenizer of transformers.
        ours: without transliteration.

    Raises:
        ExportError: names the first text whose ids differ.
    """
    for text in _texts(ours):
        found = theirs(text, add_special_tokens=False)["input_ids"]
        expected = ours.encode(text).tolist()
        if found != expected:
            raise ExportError(
                f"{TOKENIZER} was not kept: it reads {text!r} as {found}, and our tokenizer as "
                f"{expected}."
            )


def _texts(tokenizer: Tokenizer) -> list[str]:
    strange = ["a\u2603\U0001f600b", "\r\n\r", "  e\u0301 \xa0 \t\n\n don't 1234"]
    if isinstance(tokenizer, CharTokenizer):
        characters = tokenizer.tokens[len(tokenizer.special_ids) :]
        return [*characters, "".join(characters), *strange, PAD, UNK]
    assert isinstance(tokenizer, BpeTokenizer)
    spelled = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    whole = [token.decode("utf-8", "ignore") for token in spelled]
    some = [text for text in whole if text][:_MOST_COMPARED]
    special = [tokenizer.special_name(token) for token in tokenizer.special_ids]
    return [*some, "".join(some), *strange, *special[:_MOST_COMPARED]]
