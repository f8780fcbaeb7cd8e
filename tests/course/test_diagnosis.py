"""A diagnosis is the known mistake that behaves as the answer does, and few of them are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
