"""Named wrong answers, equivalent rewrites, and the probes that tell them apart.

A module's `wrong_answers.py` is full of functions under these decorators; all of an exercise
stand in one file, and a long one may be several, `wrong_answers_softmax.py` and the like:

    @probes("causal_mask")
    def _(causal_mask):
        return [lambda: causal_mask(3, 3), lambda: causal_mask(2, 5)]

    @mutant("causal_mask", "A token cannot see itself: keep the diagonal.")
    def without_itself(n_queries, n_keys):
        return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries - 1)

    @rewrite("causal_mask")
    def by_comparing(n_queries, n_keys): ...

They import what they build on from `my_transformer`, as the answers do.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tiny_transformer.course.answers import import_file
from tiny_transformer.course.catalogue import Module

T = TypeVar("T")
Probes = Callable[[Any], Sequence[Callable[[], Any]]]
"""Given an answer, what to compute with it: each a call that returns tensors or values."""


@dataclass(frozen=True)
class Mutant:
    """A wrong answer with a name.

    Attributes:
        function: the exercise's function.
        name: what it does wrong, in a few words.
        says: what a learner is told who made this mistake.
        answer: the function or class.
    """

    function: str
    name: str
    says: str
    answer: Any


@dataclass(frozen=True)
class Rewrite:
    """A right answer that is written differently."""

    function: str
    name: str
    answer: Any


@dataclass(frozen=True)
class WrongAnswers:
    """What a module's `wrong_answers.py` holds, by the exercise's function."""

    mutants: dict[str, list[Mutant]]
    rewrites: dict[str, list[Rewrite]]
    probes: dict[str, Probes]


def mutant(function: str, says: str) -> Callable[[T], T]:
    """Mark a function or class as a wrong answer, with what its writer should be told."""
    return _mark(lambda answer: Mutant(function, _name(answer), says, answer))


def rewrite(function: str) -> Callable[[T], T]:
    """Mark a function or class as a right answer in another form."""
    return _mark(lambda answer: Rewrite(function, _name(answer), answer))


def probes(function: str) -> Callable[[T], T]:
    """Mark a function that, given an answer, returns the calls whose results tell mutants apart."""
    return _mark(lambda answer: (function, answer))


def _mark(record: Callable[[Any], Any]) -> Callable[[T], T]:
    def decorate(answer: T) -> T:
        _records.append(record(answer))
        return answer

    return decorate


_records: list[Any] = []  # of the file that is being imported


def _name(answer: Any) -> str:
    return answer.__name__.strip("_").replace("_", " ")


def load_wrong_answers(module: Module, function: str = "") -> WrongAnswers:
    """Run a module's `wrong_answers*.py`; what they import from `my_transformer` is installed.

    Args:
        module: which.
        function: leave out the files that do not name this one.
    """
    found = WrongAnswers({}, {}, {})
    for path in sorted(module.folder.glob("wrong_answers*.py")):
        if f'"{function}"' in path.read_text(encoding="utf-8") or not function:
            answers = read_answers(path, f"{path.stem}_{module.name}")
            found.mutants.update(answers.mutants)
            found.rewrites.update(answers.rewrites)
            found.probes.update(answers.probes)
    return found


def read_answers(path: Path, name: str) -> WrongAnswers:
    """Run a file of marked answers as the module `name`, and collect them."""
    _records.clear()
    import_file(path, name)
    found = WrongAnswers({}, {}, {})
    for record in _records:
        if isinstance(record, Mutant):
            found.mutants.setdefault(record.function, []).append(record)
        elif isinstance(record, Rewrite):
            found.rewrites.setdefault(record.function, []).append(record)
        else:
            function, probe = record
            found.probes[function] = probe
    _records.clear()
    return found


def load_tests(module: Module, prefix: str) -> list[types.ModuleType]:
    """Import those of a module's test files that have a test whose name begins with `prefix`.

    What they import from `my_transformer` is what is installed.
    """
    paths = sorted(module.folder.glob("test_*.py"))
    return [
        import_file(path, f"{path.stem}_{module.name}")
        for path in paths
        if f"def {prefix}" in path.read_text(encoding="utf-8")
    ]
