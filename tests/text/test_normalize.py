from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.text import PLACEHOLDER, normalize_text
from tiny_transformer.text.normalize import ALLOWED, find_unknown

# Every code point, lone surrogates and astral characters included.
any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from("\r\n\t~ é—“ﬁ\u0301"))


@pytest.mark.requirement("text.normalize")
def test_printable_ascii_tab_and_newline_stay() -> None:
    text = "".join(map(chr, range(32, 127))) + "\t\n"
    assert normalize_text(text) == text


@pytest.mark.requirement("text.normalize")
def test_every_other_code_point_becomes_one_placeholder() -> None:
    kept = set(ALLOWED + "\r")
    others = [chr(code) for code in range(0x110000) if chr(code) not in kept]
    assert normalize_text("".join(others)) == PLACEHOLDER * (0x110000 - 98)


@pytest.mark.requirement("text.normalize")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("a\r\r\nb", "a\n\nb"),
        ("a\n\rb", "a\n\nb"),
        ("\r", "\n"),
        ("", ""),
    ],
)
def test_crlf_and_cr_become_one_newline(text: str, expected: str) -> None:
    assert normalize_text(text) == expected


@pytest.mark.requirement("text.normalize")
@given(any_text, st.booleans())
def test_the_result_is_in_the_vocabulary_and_normalising_twice_changes_nothing(
    text: str, transliterate: bool
) -> None:
    once = normalize_text(text, transliterate=transliterate)
    assert set(once) <= set(ALLOWED + PLACEHOLDER)
    assert normalize_text(once, transliterate=transliterate) == once


@pytest.mark.requirement("text.transliterate")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café naïve Ångström", "cafe naive Angstrom"),
        ("cafe\u0301", "cafe"),
        ("“quoted” ‘so’ it’s", "\"quoted\" 'so' it's"),
        ("wait—no, 3–4", "wait--no, 3-4"),
        ("well…", "well..."),
        ("ﬁne ﬂow Æsop œuvre straße", "fine flow AEsop oeuvre strasse"),
        ("a\u00a0b\u2028c", "a b\nc"),
        ("½ ²", "1/2 2"),
    ],
)
def test_transliteration_spells_in_ascii(text: str, expected: str) -> None:
    assert normalize_text(text, transliterate=True) == expected


@pytest.mark.requirement("text.transliterate")
@pytest.mark.parametrize("character", ["中", "й", "≠", "😀", "\ud800", "\ufffd", "\x00", "℃"])
def test_what_has_no_ascii_spelling_stays_one_placeholder(character: str) -> None:
    assert normalize_text(character, transliterate=True) == PLACEHOLDER


def test_transliteration_is_off_by_default() -> None:
    assert normalize_text("é") == PLACEHOLDER


@given(any_text, any_text, st.booleans())
def test_a_text_may_be_normalised_in_pieces(first: str, second: str, transliterate: bool) -> None:
    if first.endswith("\r") and second.startswith("\n"):
        second = second[1:]
    assert normalize_text(first + second, transliterate=transliterate) == (
        normalize_text(first, transliterate=transliterate)
        + normalize_text(second, transliterate=transliterate)
    )


@given(any_text, st.booleans())
def test_find_unknown_lists_one_character_for_each_placeholder(
    text: str, transliterate: bool
) -> None:
    normal = normalize_text(text, transliterate=transliterate)
    assert len(find_unknown(text, transliterate=transliterate)) == normal.count(PLACEHOLDER)
