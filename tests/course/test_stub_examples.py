"""The examples in the stubs' docstrings are true of the solutions."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

from tiny_transformer.course.answers import installed
from tiny_transformer.course.catalogue import load_catalogue
from tiny_transformer.course.content import SOLUTIONS, STUBS, course_folder

FILES = sorted({exercise.file for exercise in load_catalogue()})


@pytest.mark.requirement("course.stub-examples")
@pytest.mark.parametrize("file", FILES)
def test_the_examples_in_a_stub_are_what_the_solution_computes(file: str) -> None:
    names = [exercise.function for exercise in load_catalogue() if exercise.file == file]
    with installed(course_folder() / STUBS):
        stubs = importlib.import_module(f"my_transformer.{file.removesuffix('.py')}")
    with installed(course_folder() / SOLUTIONS):
        answers = importlib.import_module(f"my_transformer.{file.removesuffix('.py')}")
    known = {**vars(stubs), **{name: getattr(answers, name) for name in names}}
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    for name in names:
        text = inspect.getdoc(getattr(stubs, name)) or ""
        runner.run(parser.get_doctest(text, dict(known), name, file, 0))
    result = runner.summarize()
    assert result.failed == 0
    assert result.attempted >= len(names) // 2
