r"""Where a text may be cut so that a byte-pair encoding of the parts is that of the whole.

The pre-tokenizers of GPT-2, Llama 3 and Qwen begin a new piece at a space that follows
something else, and after a line break that stands between two characters that are no
whitespace: no alternative of their regular expressions reads on across such a place, or looks
back to it. (Before a line break none may cut: Llama 3 takes it together with the punctuation
before it; nor inside of whitespace, where a piece depends on what follows.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE = 1 << 14
"""Characters that are encoded at once, roughly."""
MOST_HELD = 1 << 20
"""A stretch of so many characters with no place to cut is cut where it is; only there may the
tokens differ from those of the whole text."""

_BEFORE_SPACE = r"(?<=\S)(?= )"
_AFTER_BREAK = r"(?<=\S\n)(?=\S)"


def safe_places(spelled: Iterable[bytes]) -> re.Pattern[str] | None:
    """Return a pattern for the places where no token of a vocabulary can reach across.

    Args:
        spelled: what each token spells.

    Returns:
        A pattern of zero width, or None where tokens reach across all of them.
    """
    across_space = across_break = False
    for token in spelled:
        across_space = across_space or re.search(rb"[^\s] ", token) is not None
        across_break = across_break or re.search(rb"\n[^\s]", token) is not None
    allowed = [_BEFORE_SPACE] * (not across_space) + [_AFTER_BREAK] * (not across_break)
    return re.compile("|".join(allowed)) if allowed else None


def cut_stream(texts: Iterable[str], places: re.Pattern[str] | None) -> Iterator[str]:
    """Yield the same text in pieces that end where `places` allows, some `PIECE` long each.

    What follows the last such place is held until more has come, up to `MOST_HELD` characters.
    """
    held = ""
    for text in texts:
        held += text
        end = _last(held, places)
        if not end and len(held) >= MOST_HELD:
            end = len(held)
        yield from _cut(held[:end], places)
        held = held[end:]
    yield from _cut(held, places)


def _last(text: str, places: re.Pattern[str] | None) -> int:
    """Return the last place to cut, or 0; the end is none, for what follows is not known."""
    if places is None:
        return 0
    window = 1 << 8
    while True:
        start = max(0, len(text) - window)
        found = [m.start() for m in places.finditer(text, start) if m.start() < len(text)]
        if found or start == 0:
            return found[-1] if found else 0
        window *= 8


def _cut(text: str, places: re.Pattern[str] | None) -> Iterator[str]:
    """Yield a text in pieces of at least `PIECE` characters, but the last."""
    start = 0
    while places is not None and len(text) - start > PIECE:
        found = places.search(text, start + PIECE)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.start()
    if start < len(text):
        yield text[start:]
