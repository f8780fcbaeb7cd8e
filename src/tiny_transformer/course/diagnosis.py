"""Which known mistake a failing answer makes, found by what it computes.

Answer, reference and every known wrong answer are run on the same probes. The wrong answer
that behaves as the learner's does, wherever either differs from the reference, names the
mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.course.verdict import Diagnosis
from tiny_transformer.course.wrong_answers import Mutant, Probes
from tiny_transformer.runtime.random_state import forked_rng

CLOSE = 0.5
"""Share of telling probes above which a mistake is named, as a guess."""
NEARLY = 0.99
"""Share of one that agrees on all telling probes, but for the texts of its exceptions."""


@dataclass(frozen=True)
class Outcome:
    """What a probe led to: values, or the type of an exception and its text without numbers."""

    values: tuple[Any, ...]
    raised: str = ""
    text: str = ""


Remembered = dict[str, list[Outcome]]
"""What known answers did on the probes of one exercise, by name; the reference's is `""`."""


def diagnose(
    answer: Any,
    reference: Any,
    mutants: Iterable[Mutant],
    probes: Probes,
    remembered: Remembered | None = None,
) -> Diagnosis | None:
    """Name the mistake of an answer, if it is a known one.

    Args:
        answer: the learner's.
        reference: the right one.
        mutants: the known mistakes.
        probes: what to compute with each.
        remembered: from earlier calls with the same known answers, which are then not run again;
            it is added to.

    Returns:
        The best match, the first of equals in the order of `mutants`; None if the answer
        behaves as the reference does, or as no known wrong answer.
    """
    if remembered is None:
        right = observe(reference, probes)
    else:
        right = remembered[""] = remembered.get("") or observe(reference, probes)
    theirs = observe(answer, probes, len(right))
    best: Diagnosis | None = None
    for mutant in mutants:
        least = CLOSE if best is None else best.share
        known = observing(mutant.answer, probes, len(right))
        if remembered is not None:
            known = remembered[mutant.name] = remembered.get(mutant.name) or list(known)
        share = _likeness(theirs, right, known, least)
        if share > least:
            best = Diagnosis(mutant.name, mutant.says, share == 1.0, share)
        if share == 1.0:
            break
    return best


def _likeness(
    theirs: Sequence[Outcome], right: Sequence[Outcome], known: Iterable[Outcome], least: float
) -> float:
    """Return the share of telling probes that two answers agree on; 0 if at most `least`.

    Exceptions agree if their texts do, too: nearly everything that is wrong with a shape is a
    RuntimeError. With other texts they still do where an answer raises at the same probes and
    nowhere else, and at no more than half of them; that counts `NEARLY` as much as the same.

    It stops as soon as `least` is out of reach.
    """
    agreed, telling, left = 0, 0, len(right)
    alike, returned = True, 0
    for a, b, c in zip(theirs, known, right, strict=True):
        left -= 1
        returned += not a.raised
        if not (same(a, c) and same(b, c)):
            telling += 1
            agreed += same(a, b) and a.text == b.text
            alike = alike and same(a, b)
        if agreed + left <= least * (telling + left) and not (alike and least < NEARLY):
            return 0.0
    if not telling:
        return 0.0
    return max(agreed / telling, NEARLY if alike and 2 * returned >= len(right) else 0.0)


def observe(answer: Any, probes: Probes, count: int = 1) -> list[Outcome]:
    """Run every probe; see `observing`."""
    return list(observing(answer, probes, count))


def observing(answer: Any, probes: Probes, count: int = 1) -> Iterator[Outcome]:
    """Run one probe after another with one seed, and yield what it returned or raised.

    Where an answer cannot even be prepared, as a class that cannot be built, all `count`
    probes raised.
    """
    try:
        calls: Sequence[Callable[[], Any]] = probes(answer)
    except BaseException as error:
        yield from [_raised(error)] * count
        return
    for call in calls:
        with forked_rng(0):
            try:
                outcome = Outcome(tuple(_leaves(call())))
            except BaseException as error:
                outcome = _raised(error)
        yield outcome


def _raised(error: BaseException) -> Outcome:
    """Return what raising comes to; sizes, places in memory and names of classes do not matter."""
    try:
        text = str(error)
    except Exception:  # an exception class of the learner's, whose text cannot be made
        text = ""
    text = re.sub(r"0x[0-9a-f]+|\d+|'\w+'(?= object)|[\w.<>]+(?=\(\))", "", text)
    return Outcome((), type(error).__name__, text)


def same(a: Outcome, b: Outcome) -> bool:
    """Return whether two outcomes are equal, numbers to 1e-4, exceptions by their type."""
    if a.raised or b.raised:
        return a.raised == b.raised
    return len(a.values) == len(b.values) and all(map(_same_value, a.values, b.values))


def _same_value(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        if isinstance(a, float) and isinstance(b, float):
            a, b = torch.tensor(a), torch.tensor(b)
        else:
            return type(a) is type(b) and bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype or a.requires_grad != b.requires_grad:
        return False
    return torch.allclose(
        a.detach().to(torch.float64), b.detach().to(torch.float64), 1e-4, 1e-4, equal_nan=True
    )


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from _leaves(value[name])
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
