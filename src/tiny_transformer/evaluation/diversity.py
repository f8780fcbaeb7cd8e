"""How varied generated texts are: numbers that set decoding strategies side by side.

Texts are cut into words, numbers and marks of punctuation.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def n_grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return every run of n words, in order."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the share of n-grams that differ, over all texts together: 0 to 1.

    NaN if no text has n words. Source: Li et al. 2016, "A Diversity-Promoting Objective
    Function for Neural Conversation Models", section 5.
    """
    grams = [gram for text in texts for gram in n_grams(words_of(text), n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition_rate(texts: Sequence[str], n: int = 4) -> float:
    """Return the share of n-grams that occurred before in the same text, mean over texts.

    NaN if no text has n words. Source: Welleck et al. 2020, "Neural Text Generation With
    Unlikelihood Training", section 6 (seq-rep-n).
    """
    rates = []
    for text in texts:
        grams = n_grams(words_of(text), n)
        if grams:
            rates.append(1 - len(set(grams)) / len(grams))
    return math.fsum(rates) / len(rates) if rates else math.nan


def word_entropy(texts: Sequence[str]) -> float:
    """Return the entropy of the words' frequencies, over all texts together, in bits.

    NaN without a word. Source: Zhang et al. 2018, "Generating Informative and Diverse
    Conversational Responses via Adversarial Information Maximization", section 4 (Ent-1).
    """
    counts = Counter(word for text in texts for word in words_of(text))
    total = sum(counts.values())
    if not total:
        return math.nan
    return -math.fsum(n / total * math.log2(n / total) for n in counts.values()) + 0.0


def bleu(text: str, references: Sequence[str], n: int = 4) -> float:
    """Return BLEU of a text against references: 0 to 1.

    Geometric mean of the clipped precisions of 1- to n-grams, times a penalty for being
    shorter than the reference nearest in length. Where no n-gram of a length matches, half
    of one for the first such length, a quarter for the next and so on stand in (as
    sacrebleu's "exp"). Source: Papineni et al. 2002, "BLEU", section 2; Chen and Cherry
    2014, smoothing method 3.
    """
    words, others = words_of(text), [words_of(reference) for reference in references]
    if not words or not others:
        return 0.0
    logs, smoothing = [], 1.0
    for length in range(1, n + 1):
        counts = Counter(n_grams(words, length))
        most: Counter[tuple[str, ...]] = Counter()
        for other in others:
            most |= Counter(n_grams(other, length))
        total = sum(counts.values())
        if not total:
            break  # the text has no n-gram as long as this
        matches: float = sum((counts & most).values())
        if not matches:
            smoothing *= 2
            matches = 1 / smoothing
        logs.append(math.log(matches / total))
    nearest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    brevity = min(0.0, 1 - nearest / len(words))
    return math.exp(brevity + math.fsum(logs) / len(logs))


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU of each text against all others: 1 where they are the same.

    NaN for a single text. Source: Zhu et al. 2018, "Texygen", section 3.2.
    """
    if len(texts) < 2:
        return math.nan
    scores = [bleu(text, [*texts[:i], *texts[i + 1 :]]) for i, text in enumerate(texts)]
    return math.fsum(scores) / len(scores)
