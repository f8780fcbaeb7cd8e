"""Which known mistake a failing answer makes, found by what it computes.

Answer, reference and every known wrong answer are run on the same probes. The wrong answer
that behaves as the learner's does, wherever either differs from the reference, names the
mistake.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Outcome:
    """What a probe led to: values, or the type of an exception."""

    values: tuple[Any, ...]
    raised: str = ""


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

    It stops as soon as `least` is out of reach.
    """
    agreed, telling, left = 0, 0, len(right)
    for a, b, c in zip(theirs, known, right, strict=True):
        left -= 1
        if not (same(a, c) and same(b, c)):
            telling += 1
            agreed += same(a, b)
        if agreed + left <= least * (telling + left):
            return 0.0
    return agreed / telling if telling else 0.0


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
        yield from [Outcome((), type(error).__name__)] * count
        return
    for call in calls:
        with forked_rng(0):
            try:
                outcome = Outcome(tuple(_leaves(call())))
            except BaseException as error:
                outcome = Outcome((), type(error).__name__)
        yield outcome


def same(a: Outcome, b: Outcome) -> bool:
    """Return whether two outcomes are equal, numbers to 1e-4."""
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
