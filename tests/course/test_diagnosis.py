"""A diagnosis is the known mistake that behaves as the answer does, and few of them are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_transformer.course.catalogue import Module
from tiny_transformer.course.diagnosis import CLOSE, diagnose, observe, same
from tiny_transformer.course.verdict import Diagnosis
from tiny_transformer.course.wrong_answers import Mutant, load_wrong_answers

Answer = tuple[int, ...]


def probes(answer: Answer) -> Sequence[Callable[[], Any]]:
    return [lambda i=i: answer[i] for i in range(len(answer))]


def by_running_all(answer: Answer, reference: Answer, mutants: list[Mutant]) -> Diagnosis | None:
    right, theirs = observe(reference, probes), observe(answer, probes)
    best = None
    for mutant in mutants:
        known = observe(mutant.answer, probes)
        telling = [
            same(a, b)
            for a, b, c in zip(theirs, known, right, strict=True)
            if not (same(a, c) and same(b, c))
        ]
        share = sum(telling) / len(telling) if telling else 0.0
        if share > CLOSE and (best is None or share > best.share):
            best = Diagnosis(mutant.name, mutant.says, share == 1.0, share)
    return best


@given(st.data())
def test_stopping_early_finds_what_running_all_finds(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    draw = st.tuples(*[st.integers(0, 2)] * n)
    answers = data.draw(st.lists(draw, min_size=2, max_size=8))
    reference, answer, *wrong = answers
    mutants = [Mutant("f", str(i), "", values) for i, values in enumerate(wrong)]
    assert diagnose(answer, reference, mutants, probes) == by_running_all(
        answer, reference, mutants
    )


def test_a_mistake_that_cannot_be_the_one_is_not_run_to_its_end() -> None:
    calls: list[str] = []

    def counted(answer: str) -> Sequence[Callable[[], Any]]:
        def probe(i: int) -> Any:
            calls.append(answer)
            return answer, i

        return [lambda i=i: probe(i) for i in range(10)]

    mutants = [Mutant("f", name, "", name) for name in ("far", "same", "last")]
    found = diagnose("same", "right", mutants, counted)
    assert found is not None and found.name == "same"
    assert calls.count("far") == 5  # half of ten: more than half is out of reach
    assert calls.count("last") == 0


def act(values: Sequence[Any]) -> Any:
    def call(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return [lambda value=value: call(value) for value in values]


def found(theirs: Sequence[Any], **known: Sequence[Any]) -> tuple[str, bool] | None:
    mutants = [Mutant("f", name, "", values) for name, values in known.items()]
    diagnosis = diagnose(theirs, [0, 0, 0, 0], mutants, act)
    return diagnosis and (diagnosis.name, diagnosis.exact)


def wrong(text: str) -> RuntimeError:
    return RuntimeError(text)


@pytest.mark.requirement("course.proof-diagnosis")
@pytest.mark.parametrize(
    ("theirs", "known", "named"),
    [
        # the same text but for its numbers, its class and its place in memory
        ([wrong("a (3) and 'A' object at 0xff")] * 4, ["a (12) and 'Bc' object at 0x1"], True),
        # another text at every probe, and at most of them, says nothing
        ([wrong("no view")] * 4, ["a mask of (3)"], None),
        ([wrong("no view")] * 3 + [0], ["a mask of (3)"] * 3, None),
        # another text at the same few probes and the same values elsewhere: a guess
        ([wrong("no view"), 5, 0, 0], ["a mask of (3)", 5, 0, 0], False),
        ([wrong("no view"), 0, 0, 0], ["a mask of (3)", 0, 0, 0], False),
        ([wrong("no view"), 5, 0, 0], ["a mask of (3)", 6, 0, 0], None),
        ([wrong("no view"), 0, 0, 0], [ValueError("no view"), 0, 0, 0], None),
    ],
)
def test_exceptions_are_one_if_their_texts_are(
    theirs: list[Any], known: list[Any], named: bool | None
) -> None:
    texts = known * 4 if len(known) == 1 else known + [0] * (4 - len(known))
    values = [wrong(value) if isinstance(value, str) else value for value in texts]
    assert found(theirs, known=values) == (None if named is None else ("known", named))


def test_one_that_agrees_in_the_texts_too_is_preferred() -> None:
    theirs = [wrong("no view of (2)"), 5, 0, 0]
    other, same_text = [wrong("a mask"), 5, 0, 0], [wrong("no view of (7)"), 5, 0, 0]
    assert found(theirs, other=other, same=same_text) == ("same", True)


def test_an_exception_without_a_text_is_an_outcome() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert observe([OddError()], act)[0].raised == "OddError"


def test_the_answers_of_a_module_may_lie_in_several_files(tmp_path: Path) -> None:
    text = (
        "from tiny_transformer.course.wrong_answers import mutant, probes\n"
        '@probes("{0}")\ndef _(f):\n    return []\n'
        '@mutant("{0}", "says")\ndef wrong(x):\n    return x\n'
        '@mutant("{0}", "says")\ndef worse(x):\n    return x\n'
    )
    (tmp_path / "module").mkdir()
    for name in ("one", "two"):
        (tmp_path / "module" / f"wrong_answers_{name}.py").write_text(text.format(name))

    class Here(Module):
        @property
        def folder(self) -> Path:
            return tmp_path / "module"

    module = Here("module", "", 1.0, ())
    assert set(load_wrong_answers(module).mutants) == {"one", "two"}
    only = load_wrong_answers(module, "two")
    assert set(only.mutants) == set(only.probes) == {"two"}
    assert [mutant.name for mutant in only.mutants["two"]] == ["wrong", "worse"]


def test_outcomes_are_compared_by_kind_first() -> None:
    values = [1, 1.0, torch.tensor(1.0), torch.tensor(1), torch.tensor([1.0]), True, "1"]
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            outcomes = [observe(v, lambda v: [lambda: v])[0] for v in (a, b)]
            assert same(*outcomes) == (i == j), (a, b)
