"""The vocabulary on disk: JSON that a person can read, refused when it is not whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_transformer.runtime.errors import VocabularyError
from tiny_transformer.text.json_file import read_json

FORMAT = "tiny_transformer.char_vocabulary"
VERSION = 1
_FIELDS = ("format", "version", "transliterate", "tokens")


def vocabulary_text(tokens: Sequence[str], transliterate: bool) -> str:
    """Return the JSON of a vocabulary, one token a line with its id."""
    lines = [
        f'    {{"id": {index}, "token": {json.dumps(token)}}}' for index, token in enumerate(tokens)
    ]
    return (
        "{\n"
        f'  "format": "{FORMAT}",\n'
        f'  "version": {VERSION},\n'
        f'  "transliterate": {json.dumps(transliterate)},\n'
        '  "tokens": [\n' + ",\n".join(lines) + "\n  ]\n}\n"
    )


def read_vocabulary(path: Path, expected: Sequence[str], data: bytes | None = None) -> bool:
    """Check that `path` holds the `expected` tokens; return its transliterate flag.

    Raises:
        VocabularyError: the file cannot be read, or differs; the message gives the first
            difference.
    """

    def refuse(reason: str) -> VocabularyError:
        return VocabularyError(
            f"The vocabulary file {path} cannot be used: {reason} Take the vocab.json of an "
            "undamaged copy of the run, or write a new one with CharTokenizer().save(path)."
        )

    value = read_json(path, refuse, data)
    reason = _first_difference(value, expected)
    if reason:
        raise refuse(reason)
    return value["transliterate"]


def _first_difference(value: Any, expected: Sequence[str]) -> str | None:
    """Return a sentence on the first thing that is wrong with a loaded vocabulary."""
    if not isinstance(value, dict):
        return f"it holds a {type(value).__name__}, not an object."
    for name in _FIELDS:
        if name not in value:
            return f"{name!r} is missing."
    if value["format"] != FORMAT:
        return f"its format is {value['format']!r}; expected {FORMAT!r}."
    if type(value["version"]) is not int or value["version"] != VERSION:
        return f"its version is {value['version']!r}; this program reads version {VERSION}."
    if not isinstance(value["transliterate"], bool):
        return f"transliterate is {value['transliterate']!r}; expected true or false."
    extra = sorted(set(value) - set(_FIELDS))
    if extra:
        return f"{extra[0]!r} is not a part of this format."
    return _first_wrong_token(value["tokens"], expected)


def _first_wrong_token(tokens: Any, expected: Sequence[str]) -> str | None:
    if not isinstance(tokens, list):
        return f"tokens is a {type(tokens).__name__}; expected a list."
    for index, (entry, token) in enumerate(zip(tokens, expected, strict=False)):
        wanted = {"id": index, "token": token}
        if entry == wanted and type(entry["id"]) is int:
            continue
        earlier = next((i for i in range(index) if tokens[i] == entry), None)
        note = f" (a duplicate of entry {earlier})" if earlier is not None else ""
        return (
            f"entry {index} of tokens is {json.dumps(entry)}{note}; expected {json.dumps(wanted)}."
        )
    if len(tokens) != len(expected):
        return f"it has {len(tokens)} tokens; expected {len(expected)}."
    return None
