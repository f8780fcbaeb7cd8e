"""Begin an exercise of the course, and its module if that is new: every piece that it needs.

    python tools/scaffold.py 01_attention sliding-window --file attention.py
    python tools/scaffold.py 06_training adam-step --file optimizer.py --function adam_step

A module gets its pages and manifest. An exercise gets a stub, a solution, a first test, a first
wrong answer with its probe, a first rewrite and an entry in the manifest, each marked TODO. The
course's proof fails until no TODO is left: `make test-module MODULE=course`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tiny_transformer.course.catalogue import load_catalogue
from tiny_transformer.course.content import SOLUTIONS, STUBS, CourseError, course_folder

MANIFEST_HEAD = """\
title: "TODO"
hours: 4
exercises:
"""
ENTRY = """\
  - id: {id}
    title: TODO
    file: {file}
    function: {function}
    difficulty: {difficulty}
    minutes: 20
    hints:
      - "TODO: a question, or a picture of the idea"
      - "TODO: the operation"
      - "TODO: nearly the line, `in code`"
    explanation: "TODO: what the solution does and why, and what goes wrong otherwise"
    source: "TODO: paper and section, with its address"
"""
STUB = '''

def {function}(x: Tensor) -> Tensor:
    """TODO: what it returns; its formula, shapes, dtype, and an example with small numbers."""
    raise NotImplementedError("{id}")
'''
SOLUTION = '''

def {function}(x: Tensor) -> Tensor:
    """TODO: where the package has it, import it from there instead."""
    raise NotImplementedError("TODO")
'''
FILE_HEAD = '"""TODO: what this file is."""\n\nfrom torch import Tensor\n'
TESTS_HEAD = '''\
"""TODO: what is promised."""

import torch
from my_transformer import {stem}

from tiny_transformer.course.expect import expect_equal
'''
TESTS = """

def test_{function}__todo_says_what_it_promises():
    x = torch.zeros(2, 3)
    expect_equal({stem}.{function}(x), x, "{function}(x)", dims="TODO TODO")
"""
ANSWERS_HEAD = '''\
"""TODO: mistakes by name, right answers in other words, and probes that tell them apart."""

import torch

from tiny_transformer.course.wrong_answers import mutant, probes, rewrite
'''
ANSWERS = """

@probes("{function}")
def _({function}):
    return [lambda: {function}(torch.zeros(2, 3))]


@mutant("{function}", "TODO: what was done, and where to look.")
def todo_{function}_is_wrong(x):
    raise NotImplementedError("TODO")


@rewrite("{function}")
def todo_{function}_by_another_way(x):
    raise NotImplementedError("TODO")
"""
NOTEBOOK_HEAD = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# TODO

```{code-cell} ipython3
import importlib.util

if importlib.util.find_spec("tiny_transformer") is None:  # on Colab: upload the wheel first
    %pip install --quiet ./tiny_transformer-*.whl
```
"""
PAGES = {
    "README.md": "# TODO: objectives, time, what comes before, what you will have at the end\n",
    "theory.md": NOTEBOOK_HEAD,
    "notebook.md": NOTEBOOK_HEAD,
    "solutions.md": NOTEBOOK_HEAD,
    "review.md": "# TODO: questions, with answers to unfold\n",
    "mistakes.md": "# TODO: what often goes wrong, and what one sees then\n",
}


def begin(module: str, exercise: str, file: str, function: str) -> list[Path]:
    """Write what an exercise needs, and its module if there is none; return the files.

    Raises:
        CourseError: a name is not one, or the exercise stands in the course already.
    """
    course = course_folder()
    for name, pattern, example in (
        (module, r"\d\d_[a-z0-9_]+", "06_training"),
        (exercise, r"[a-z0-9]+(-[a-z0-9]+)*", "adam-step"),
        (file, r"[a-z][a-z0-9_]*\.py", "attention.py"),
        (function, r"[a-z][a-z0-9_]*", "adam_step"),
    ):
        if not re.fullmatch(pattern, name):
            raise CourseError(f"{name!r} will not do as a name here; for instance: {example}")
    modules = {each.name: each for each in load_catalogue().modules}
    if exercise in {each.id for each in load_catalogue()}:
        raise CourseError(f"The exercise {exercise!r} stands in the course already.")
    there = modules[module].exercises if module in modules else ()
    values = {
        "id": exercise,
        "file": file,
        "stem": file.removesuffix(".py"),
        "function": function,
        "difficulty": there[-1].difficulty if there else "easy",
    }
    folder = course / module
    folder.mkdir(exist_ok=True)
    written = [] if module in modules else [_append(folder / n, t, "") for n, t in PAGES.items()]
    stem = values["stem"]
    for path, head, text in (
        (folder / "module.yaml", MANIFEST_HEAD, ENTRY),
        (course / STUBS / file, FILE_HEAD, STUB),
        (course / SOLUTIONS / file, FILE_HEAD, SOLUTION),
        (folder / f"test_{stem}.py", TESTS_HEAD.format(**values), TESTS),
        (folder / f"wrong_answers_{stem}.py", ANSWERS_HEAD, ANSWERS),
    ):
        written.append(_append(path, head, text.format(**values)))
    return written


def _append(path: Path, head: str, text: str) -> Path:
    """Add to a file, which begins with `head` if it is new."""
    before = path.read_text(encoding="utf-8") if path.exists() else head
    path.write_text(before + text, encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Begin an exercise; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", help="its folder, such as 06_training; made if it is new")
    parser.add_argument("exercise", help="its id, such as adam-step")
    parser.add_argument("--file", required=True, help="named as in tiny_transformer/model")
    parser.add_argument("--function", help="default: the id, with underscores")
    options = parser.parse_args(arguments)
    function = options.function or options.exercise.replace("-", "_")
    try:
        written = begin(options.module, options.exercise, options.file, function)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    print("Written, or added to:", *written, sep="\n  ")
    print("Fill in each TODO, then: make test-module MODULE=course")
    return 0


if __name__ == "__main__":
    sys.exit(main())
