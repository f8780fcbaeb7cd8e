r"""A tokenizer of Hugging Face as JSON: what of it we read, and what each token spells.

Two families of byte-pair encoding are known. A byte-level one (GPT-2, Llama 3, Qwen; what
`BpeTokenizer.train` makes) writes each byte as a letter. One with byte fallback (Llama 2)
writes a space as `▁`, puts one before every text, and spells what it has no piece for as bytes
like `<0x0A>`.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from tiny_transformer.text.json_file import Refuse

SPACE = "\u2581"  # stands for a space in the family with byte fallback
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Special tokens at which GPT-2, Llama 2, Llama 3, Qwen and Gemma end a text or a turn.
_ENDS = frozenset(
    [
        *("<|endoftext|>", "</s>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<eos>"),
        *("<end_of_turn>", "<|end|>"),
    ]
)


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in a byte-level vocabulary.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section
    2.2, and the `bytes_to_unicode` of its code: a byte that prints stands for itself.
    """
    printing = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    letters = {byte: chr(byte) for byte in printing}
    return letters | {byte: chr(256 + index) for index, byte in enumerate(others)}


def check_spec(spec: Any, refuse: Refuse) -> None:
    """Raise what `refuse` makes of a reason if `spec` is not the JSON of a tokenizer we can use."""
    model = spec.get("model") if isinstance(spec, dict) else None
    if not isinstance(model, dict) or not isinstance(spec.get("added_tokens", []), list):
        raise refuse("it is not the JSON of a tokenizer of Hugging Face.")
    kind = model.get("type", "BPE")  # the oldest files do not say
    if kind != "BPE":
        raise refuse(f"its model is {kind!r}; only byte-pair encoding ('BPE') can be used.")
    vocabulary, added = model.get("vocab"), spec.get("added_tokens") or []
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [None]
    if not all(isinstance(entry, dict) for entry in added):
        raise refuse("an entry of added_tokens is not an object.")
    ids += [entry.get("id") for entry in added]
    if not ids or any(type(index) is not int or not 0 <= index < 1 << 24 for index in ids):
        raise refuse("its vocab does not map tokens to ids.")
    if not all(isinstance(entry.get("content"), str) for entry in added):
        raise refuse("an entry of added_tokens has no content.")
    if not is_byte_level(spec) and not model.get("byte_fallback"):
        raise refuse(
            "it is not byte-level, and has no byte fallback, so that texts would not come back as "
            "they were."
        )


def is_byte_level(spec: dict[str, Any]) -> bool:
    """Return whether tokens are written in the letters of bytes."""
    parts = [*_parts(spec.get("pre_tokenizer")), *_parts(spec.get("decoder"))]
    return any(part.get("type") == "ByteLevel" for part in parts)


def _parts(part: Any) -> list[dict[str, Any]]:
    """Return a component, or those of a sequence of them."""
    if not isinstance(part, dict):
        return []
    for name in ("pretokenizers", "decoders", "normalizers"):
        if isinstance(part.get(name), list):
            return [inner for nested in part[name] for inner in _parts(nested)]
    return [part]


def plain_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a copy that neither cuts, nor pads, nor leaves merges out at random."""
    spec = copy.deepcopy(spec)
    spec["truncation"] = spec["padding"] = spec["model"]["dropout"] = None
    return spec


def without_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a copy that puts no space before a text, to encode what continues one."""
    spec = copy.deepcopy(spec)
    normalizer = spec.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "Prepend":
        spec["normalizer"] = None
    elif isinstance(normalizer, dict) and isinstance(normalizer.get("normalizers"), list):
        kept = [one for one in normalizer["normalizers"] if one.get("type") != "Prepend"]
        spec["normalizer"] = {**normalizer, "normalizers": kept}
    for part in [*_parts(spec.get("pre_tokenizer")), *_parts(spec.get("normalizer"))]:
        if part.get("type") == "Metaspace":
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
        elif part.get("type") == "ByteLevel":
            part["add_prefix_space"] = False
    return spec


def trims_space(spec: dict[str, Any]) -> bool:
    """Return whether decoding drops the space at the beginning of a text."""
    return any(
        (part.get("type") == "Strip" and part.get("start", 0) > 0)
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never")
        for part in _parts(spec.get("decoder"))
    )


def token_bytes(spec: dict[str, Any]) -> list[bytes]:
    """Return what each token spells, by id; nothing for special tokens and ids without one."""
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    added = spec.get("added_tokens") or []
    highest = max([*vocabulary.values(), *(entry["id"] for entry in added)])
    spelled = [b""] * (highest + 1)
    of_letter = {letter: byte for byte, letter in byte_letters().items()}
    byte_level = is_byte_level(spec)
    for token, index in vocabulary.items():
        if byte_level:
            known = all(letter in of_letter for letter in token)
            spelled[index] = bytes(map(of_letter.__getitem__, token)) if known else _utf8(token)
        elif found := _BYTE_TOKEN.fullmatch(token):
            spelled[index] = bytes([int(found[1], 16)])
        else:
            spelled[index] = _utf8(token.replace(SPACE, " "))
    for entry in added:
        spelled[entry["id"]] = b"" if entry.get("special") else _utf8(entry["content"])
    return spelled


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def special_tokens(spec: dict[str, Any]) -> dict[int, str]:
    """Return the special tokens by id, and a name for each id that has no token."""
    added = spec.get("added_tokens") or []
    named = {entry["id"]: entry["content"] for entry in added if entry.get("special")}
    taken = {*spec["model"]["vocab"].values(), *(entry["id"] for entry in added)}
    holes = {index: f"<unused {index}>" for index in range(max(taken)) if index not in taken}
    return dict(sorted({**named, **holes}.items()))


def end_tokens(specials: dict[int, str]) -> tuple[int, ...]:
    """Return the ids of the special tokens that end a text."""
    return tuple(index for index, name in specials.items() if name in _ENDS)
