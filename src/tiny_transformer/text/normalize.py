"""Any text to the 97 characters of the vocabulary, and one placeholder for the rest.

The allowed characters are the printable ASCII ones (32 to 126), the tab and the newline.
Everything here works a character at a time, apart from CRLF, so a text may be normalised
in pieces: cut it anywhere except between a carriage return and its newline.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

PLACEHOLDER = "\ufffd"
"""Stands for one character outside the vocabulary (U+FFFD, the replacement character)."""

ALLOWED = "\t\n" + "".join(map(chr, range(32, 127)))
"""The 97 characters of the vocabulary, in code order."""

_NOT_ALLOWED = re.compile(r"[^\t\n -~]")
_FIRST_ACCENT_CLASS = 200  # marks that stand above, below or beside a letter; 1 strikes it out

# What Unicode's own compatibility decomposition does not reduce to ASCII.
_SPELLED = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4\u2039\u203a", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    **dict.fromkeys("\u2014\u2015", "--"),
    **dict.fromkeys("\u0085\u2028\u2029", "\n"),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),
    **{"\u2022": "*", "\u00b7": "*", "\u2044": "/", "\u00d7": "x", "\u00f7": "/"},
    **{"\u00c6": "AE", "\u00e6": "ae", "\u0152": "OE", "\u0153": "oe", "\u00df": "ss"},
    **{"\u00d8": "O", "\u00f8": "o", "\u0110": "D", "\u0111": "d", "\u00d0": "D", "\u00f0": "d"},
    **{"\u00de": "Th", "\u00fe": "th", "\u0141": "L", "\u0142": "l", "\u0131": "i"},
    **{"\u1e9e": "SS", "\u017f": "s", "\u0126": "H", "\u0127": "h"},
}


def _spell(character: str) -> str:
    """Return the ASCII spelling of a character, or the character itself."""
    if character < "\u0080":
        return character
    letters: list[str] = []
    for part in unicodedata.normalize("NFKD", character):
        if unicodedata.combining(part) < _FIRST_ACCENT_CLASS:
            letters.append(_SPELLED.get(part, part))
    spelled = _SPELLED.get(character, "".join(letters))
    return character if _NOT_ALLOWED.search(spelled) else spelled


class _SpellingTable(dict[int, str]):
    """A table for `str.translate` that fills itself with the characters that occur."""

    def __missing__(self, code: int) -> str:
        spelled = _spell(chr(code))
        self[code] = spelled
        return spelled


_spelling = _SpellingTable()


def unify_newlines(text: str) -> str:
    r"""Return `text` with every CRLF and every CR turned into one `\n`."""
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def transliterate_text(text: str) -> str:
    """Return `text` with accents, curly quotes, dashes, ligatures and the like in ASCII.

    Each character is spelled on its own by Unicode's compatibility decomposition (NFKD)
    without accents, and by a small table. A character that has no ASCII spelling stays.
    """
    return text if text.isascii() else text.translate(_spelling)


def find_unknown(text: str, *, transliterate: bool = False) -> list[str]:
    """Return the characters of `text` that `normalize_text` replaces, each time they occur."""
    text = unify_newlines(text)
    if transliterate:
        text = transliterate_text(text)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    unknown = codes[(codes - 32 > 126 - 32) & (codes - 9 > 1)]  # below zero wraps to huge
    return list(unknown.tobytes().decode("utf-32-le", "surrogatepass"))


def normalize_text(text: str, *, transliterate: bool = False) -> str:
    r"""Return `text` in the 97 allowed characters and `PLACEHOLDER`.

    CRLF and CR become `\n`. Every other character that is not printable ASCII, a tab or a
    newline becomes one `PLACEHOLDER`. Normalising twice changes nothing more.

    Args:
        text: any string, lone surrogates included.
        transliterate: first spell accents, curly quotes, dashes, ellipses and ligatures
            in ASCII (see `transliterate_text`), which may change the length.

    Returns:
        The normalised text.
    """
    text = unify_newlines(text)
    if transliterate:
        text = transliterate_text(text)
    return _NOT_ALLOWED.sub(PLACEHOLDER, text)
