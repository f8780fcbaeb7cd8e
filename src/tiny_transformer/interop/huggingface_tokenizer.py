"""The character vocabulary as a `tokenizer.json`: the same id for each character as ours.

Text that reads `<PAD>` or `<UNK>` is characters like any other, as with `CharTokenizer`.
"""

from __future__ import annotations

import json
from typing import Any

from tiny_transformer.interop.base import ExportError
from tiny_transformer.text.tokenizer import PAD, UNK, CharTokenizer

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def tokenizer_files(tokenizer: CharTokenizer, context_length: int) -> dict[str, str]:
    """Return the two files of a tokenizer by name, as text.

    Transliteration is left out: this format has no table of spellings. A character that ours
    would spell in ASCII is unknown to it.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {token: index for index, token in enumerate(tokenizer.tokens)}
    built = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    built.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [normalizers.Replace("\r\n", "\n"), normalizers.Replace("\r", "\n")]
    )
    every = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    built.pre_tokenizer = every  # pyright: ignore[reportAttributeAccessIssue]
    built.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNK,
        "pad_token": PAD,
        "model_max_length": context_length,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return {
        TOKENIZER: built.to_str(pretty=True) + "\n",
        SETTINGS: json.dumps(settings, indent=2) + "\n",
    }


def check_tokenizer(theirs: Any, ours: CharTokenizer) -> None:
    """Compare ids of every character, and of what is unknown.

    Args:
        theirs: a tokenizer of transformers.
        ours: without transliteration.

    Raises:
        ExportError: names the first text whose ids differ.
    """
    characters = ours.tokens[len(ours.special_ids) :]
    for text in [*characters, "".join(characters), "a\u2603\U0001f600b", "\r\n\r", *(PAD, UNK)]:
        found, expected = theirs(text)["input_ids"], ours.encode(text).tolist()
        if found != expected:
            raise ExportError(
                f"{TOKENIZER} was not kept: it reads {text!r} as {found}, and our tokenizer as "
                f"{expected}."
            )
