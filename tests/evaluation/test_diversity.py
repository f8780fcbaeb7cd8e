"""Measures of variety, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.evaluation.diversity import (
    bleu,
    distinct_n,
    repetition_rate,
    self_bleu,
    word_entropy,
    words_of,
)

pytestmark = pytest.mark.requirement("generate.compare")

TEXTS = st.lists(st.text("ab ,", min_size=1, max_size=20), min_size=2, max_size=4)


def test_words_are_words_and_marks() -> None:
    assert words_of("Don't, ROMEO!\nI 2 go") == ["don't", ",", "romeo", "!", "i", "2", "go"]


def test_distinct_n_counts_over_all_texts() -> None:
    assert distinct_n(["a b a", "b a"], 1) == 2 / 5
    assert distinct_n(["a b a", "b a"], 2) == 2 / 3  # ab, ba, ba
    assert math.isnan(distinct_n(["a", "b"], 2))


def test_repetition_looks_within_a_text() -> None:
    assert repetition_rate(["a b c d", "a b c d"], 4) == 0
    assert repetition_rate(["a a a a a a"], 4) == pytest.approx(2 / 3)  # three, all the same
    assert repetition_rate(["a a a a a a", "a b c d", "short"], 4) == pytest.approx(1 / 3)
    assert math.isnan(repetition_rate(["a b"], 4))


def test_entropy_is_that_of_the_frequencies() -> None:
    assert word_entropy(["a b", "c d"]) == 2
    assert word_entropy(["a a", "a"]) == 0
    assert word_entropy(["a a b c"]) == 1.5
    assert math.isnan(word_entropy([" "]))


def test_bleu_clips_as_in_its_paper() -> None:
    references = ["the cat is on the mat", "there is a cat on the mat"]
    assert bleu("the the the the the the the", references, 1) == pytest.approx(2 / 7)


def test_bleu_of_a_worked_example() -> None:
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, none of 3 runs of four: half of one.
    found = bleu("the cat sat on the mat", ["the cat is on the mat"])
    assert found == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * (0.5 / 3)) ** 0.25)


def test_a_short_text_pays_for_the_nearest_reference() -> None:
    assert bleu("a b", ["a b c", "a b c d e f"], 2) == pytest.approx(math.exp(1 - 3 / 2))


@given(TEXTS)
def test_self_bleu_is_one_for_equal_texts_and_within_bounds_for_others(texts: list[str]) -> None:
    assert 0 <= self_bleu(texts) <= 1 + 1e-12
    same = ["a , b a b"] * 3
    assert self_bleu(same) == pytest.approx(1)


def test_one_text_has_no_self_bleu() -> None:
    assert math.isnan(self_bleu(["a b c"]))
