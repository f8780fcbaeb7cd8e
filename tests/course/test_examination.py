"""Each verdict on an answer, told apart: examined in the test's own process."""

from __future__ import annotations

import functools
import importlib
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from tests.course.made_up import STUB_SUMS, answer

from tiny_transformer.course import examination
from tiny_transformer.course.answers import NotTheirsError, install_answers, installed
from tiny_transformer.course.catalogue import Catalogue
from tiny_transformer.course.content import CourseError
from tiny_transformer.course.examination import examine, promise
from tiny_transformer.course.guard import Guard
from tiny_transformer.course.verdict import Verdict

RIGHT = answer("double", "return x * 2")
REFERENCE = "tiny_transformer.model.attention"


def verdict_on(
    catalogue: Catalogue, workspace: Path, name: str, files: dict[str, str | bytes | None]
) -> Verdict:
    """Examine an exercise on a workspace in which some files are written, or removed."""
    for file, content in files.items():
        path = workspace / file
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    exercise = catalogue.exercise(name)
    with installed(workspace):
        return examine(exercise, catalogue.module_of(exercise), workspace)


RIGHT_LAYER = """
from torch import nn
class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
    def forward(self, x):
        {}
"""
SELF = "return x * self.factor"


@pytest.mark.requirement("course.verdicts")
@pytest.mark.parametrize(
    ("name", "files", "status", "told"),
    [
        ("twice", {}, "not attempted", ""),
        ("scale", {}, "not attempted", ""),
        ("twice", {"sums.py": RIGHT}, "passed", ""),
        ("twice", {"sums.py": answer("double", "return x + 2")}, "wrong", "double(x) differs"),
        ("twice", {"sums.py": answer("double", "return x.nope")}, "raised", "AttributeError"),
        ("twice", {"sums.py": answer("double", "exit(3)")}, "raised", "SystemExit"),
        ("twice", {"sums.py": answer("double", "assert 0, 'a' * 9999")}, "raised", "a ..."),
        ("twice", {"sums.py": None}, "missing", "tiny course reset twice"),
        ("twice", {"sums.py": STUB_SUMS.replace("double", "duble")}, "missing", "no double"),
        ("twice", {"sums.py": RIGHT + "\ndef f(:\n"}, "raised", "SyntaxError"),
        ("twice", {"sums.py": RIGHT + "\nif 1:\n\tx = 1\n        y = 2\n"}, "raised", "TabError"),
        ("twice", {"sums.py": RIGHT.replace("    ", "\t")}, "passed", ""),
        ("twice", {"sums.py": RIGHT.replace("\n", "\r\n")}, "passed", ""),
        ("twice", {"sums.py": b"\xef\xbb\xbf" + RIGHT.encode()}, "passed", ""),
        ("twice", {"sums.py": RIGHT.encode() + b"x = '\xff'\n"}, "raised", "SyntaxError"),
        ("twice", {"sums.py": "import os\n" + RIGHT + "1 / 0\n"}, "raised", "ZeroDivisionError"),
        (
            "twice",
            {"sums.py": RIGHT.replace("import torch\n", "from torch import *\n")},
            "passed",
            "",
        ),
        ("mean", {"sums.py": answer("mean", "return total(x) / 3")}, "blocked", "total of sums.py"),
        (
            "mean",
            {"sums.py": answer("mean", "raise NotImplementedError('of my own')")},
            "not attempted",
            "",
        ),
        ("scale", {"layers.py": RIGHT_LAYER.format(SELF)}, "passed", ""),
        (
            "scale",
            {"layers.py": "from .sums import double\n" + RIGHT_LAYER.format("return double(x)")},
            "blocked",
            "double of sums.py",
        ),
        (
            "scale",
            {"layers.py": "from . import sums\n" + RIGHT_LAYER.format(SELF), "sums.py": RIGHT},
            "passed",
            "",
        ),
        (
            "scale",
            {"layers.py": "import sums\n" + RIGHT_LAYER.format(SELF)},
            "raised",
            "write `from my_transformer import sums` for `import sums`",
        ),
        (
            "scale",
            {"layers.py": "from sums import double\n" + RIGHT_LAYER.format(SELF)},
            "raised",
            "and `from my_transformer.sums import ...` for `from sums import ...`",
        ),
        (
            "twice",
            {"sums.py": "from my_transformer.own import double\n", "own.py": RIGHT},
            "not theirs",
            "from own.py, not from your sums.py",
        ),
        (
            "twice",
            {
                "sums.py": "from my_transformer.own import double\n",
                "own.py": "double = lambda x: x * 2",
            },
            "not theirs",
            "from own.py",
        ),
        ("twice", {"sums.py": "double = lambda x: x * 2\n"}, "passed", ""),
        (
            "twice",
            {"sums.py": "import functools as f, math\ndouble = f.partial(math.pow, 2)\n"},
            "not theirs",
            "is a partial",
        ),
        (
            "twice",
            {"sums.py": "import torch\ndouble = torch.exp\n"},
            "not theirs",
            "not a function",
        ),
    ],
)
def test_each_verdict(
    catalogue: Catalogue,
    workspace: Path,
    name: str,
    files: dict[str, str | bytes | None],
    status: str,
    told: str,
) -> None:
    verdict = verdict_on(catalogue, workspace, name, files)
    assert (verdict.status, told in verdict.message) == (status, True), verdict
    assert verdict.passed == (status == "passed")
    assert len(verdict.message) < 2100
    assert Verdict.from_dict(verdict.to_dict()) == verdict


@pytest.mark.requirement("course.not-the-reference")
@pytest.mark.parametrize(
    "line",
    [
        f"from {REFERENCE} import causal_mask",
        f"from {REFERENCE} import causal_mask as helper",
        f"import {REFERENCE}",
        f"import {REFERENCE} as a",
        "from tiny_transformer.model import attention",
        "import tiny_transformer",
        "from tiny_transformer import MLP",
        "from tiny_transformer.course import proof",
        f"import importlib\nimportlib.import_module('{REFERENCE}')",
        f"__import__('{REFERENCE}')",
        f"def f():\n    from {REFERENCE} import causal_mask",
        "from my_transformer import helper",
        "from my_transformer.helper import causal_mask",
        "from . import helper",
        "from .helper import causal_mask",
        "import my_transformer.helper",
    ],
)
def test_a_file_that_imports_the_reference_is_not_theirs(
    catalogue: Catalogue, workspace: Path, line: str
) -> None:
    helper = f"from {REFERENCE} import causal_mask\n"
    verdict = verdict_on(
        catalogue, workspace, "twice", {"sums.py": f"{RIGHT}\n{line}\n", "helper.py": helper}
    )
    assert verdict.status == "not theirs", verdict
    assert "has the reference's answers" in verdict.message


@pytest.mark.parametrize(
    "line",
    [
        "from tiny_transformer.config import ModelConfig",
        "from tiny_transformer.viz import plots",
        "from tiny_transformer import Parts",
        "import math, torch.nn.functional as F",
        "from my_transformer import other",
    ],
)
def test_other_imports_are_fine(catalogue: Catalogue, workspace: Path, line: str) -> None:
    """A file of theirs that is imported may import this one back."""
    files = {"sums.py": f"{RIGHT}\n{line}\n", "other.py": "from my_transformer import sums\n"}
    assert verdict_on(catalogue, workspace, "twice", dict(files)).passed


PATCHES = {
    "torch.allclose": "torch.allclose = lambda *a, **k: True",
    "torch.equal": "torch.equal = lambda *a, **k: True",
    "torch.Tensor.isnan": "torch.Tensor.isnan = lambda self: self",
    "torch.Tensor.__eq__": "Tensor.__eq__ = lambda a, b: True",
    "torch.nn.functional.softmax": "import torch.nn.functional as F\nF.softmax = print",
    "math.sqrt": "import math\nmath.sqrt = abs",
    "builtins.abs": "import builtins\nbuiltins.abs = max",
    "the default dtype": "torch.set_default_dtype(torch.float64)",
    "the gradient mode": "torch.set_grad_enabled(False)",
}


@pytest.mark.requirement("course.guard")
@pytest.mark.parametrize("when", ["imported", "called"])
@pytest.mark.parametrize("patched", PATCHES)
def test_changing_pytorch_passes_nothing_and_is_undone(
    catalogue: Catalogue, workspace: Path, patched: str, when: str
) -> None:
    before = (torch.allclose, torch.equal, torch.Tensor.__eq__, math.sqrt, abs)
    line = PATCHES[patched]
    right = f"{RIGHT}\n{line}\n"
    if when == "called":
        right = answer("double", f"{line}\nreturn x * 2")
    for text in (right, right.replace("x * 2", "x * 3")):
        verdict = verdict_on(catalogue, workspace, "twice", {"sums.py": text})
        assert verdict.status == "wrong"
        assert f"Your code changes {patched}" in verdict.message
        assert Guard().restore() == ""
        assert (torch.allclose, torch.equal, torch.Tensor.__eq__, math.sqrt, abs) == before
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()


@pytest.mark.requirement("course.guard")
def test_what_pytorch_changes_in_itself_is_not_laid_to_the_learner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its compiler, which optimizers import, wraps `manual_seed`; a learner's wrapper is told."""
    guard, plain = Guard(), torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", torch._disable_dynamo(plain))  # pyright: ignore[reportPrivateImportUsage]
    assert guard.restore() == ""
    assert torch.manual_seed is not plain
    monkeypatch.setattr(torch, "manual_seed", functools.wraps(plain)(lambda seed: plain(0)))
    assert guard.restore() == "torch.manual_seed"


def test_every_exercise_of_a_file_that_changes_pytorch_is_told(
    catalogue: Catalogue, workspace: Path
) -> None:
    text = answer("double", "return x * 2") + "\n" + PATCHES["torch.allclose"] + "\n"
    text = text.replace('raise NotImplementedError("total")', "return x.sum(-1)")
    (workspace / "sums.py").write_text(text)
    with installed(workspace):
        verdicts = [
            examine(exercise, catalogue.module_of(exercise), workspace)
            for exercise in catalogue.select("sums")
        ]
    assert [verdict.status for verdict in verdicts] == ["wrong", "wrong", "not attempted"]
    assert all("torch.allclose" in verdict.message for verdict in verdicts[:2])


def test_where_an_exception_came_from_is_the_learners_line(
    catalogue: Catalogue, workspace: Path
) -> None:
    text = answer("double", "y = x\nreturn torch.matmul(y, y, y, y)")
    verdict = verdict_on(catalogue, workspace, "twice", {"sums.py": text})
    assert verdict.where == f"sums.py, line {text[: text.index('matmul')].count(chr(10)) + 1}: " + (
        "return torch.matmul(y, y, y, y)"
    )
    verdict = verdict_on(catalogue, workspace, "twice", {"sums.py": "x = (1,\n"})
    assert verdict.where.startswith("sums.py, line 1: x = (1,")
    assert verdict.test == "is imported"
    verdict = verdict_on(catalogue, workspace, "twice", {"sums.py": "exec('1 +')\n"})
    assert verdict.status == "raised"


def test_what_the_tests_promise_is_told_in_words(catalogue: Catalogue, workspace: Path) -> None:
    text = answer("double", "return x.mul_(2)")
    verdict = verdict_on(catalogue, workspace, "twice", {"sums.py": text})
    assert verdict.test == "leaves its input alone"
    assert (verdict.n_passed, verdict.n_tests) == (1, 2)
    assert verdict.picture.splitlines()[0].split() == ["yours", "expected"]
    assert verdict.diagnosis is not None
    assert (verdict.diagnosis.name, verdict.diagnosis.exact) == ("in place", True)


def test_an_s_by_itself_is_a_genitive() -> None:
    def test_f__keeps_the_table_s_numbers_as_is() -> None: ...

    assert promise(test_f__keeps_the_table_s_numbers_as_is) == "keeps the table's numbers as is"


@pytest.mark.requirement("course.verdicts")
def test_a_file_saved_twice_in_one_second_with_the_same_size_is_read_anew(
    catalogue: Catalogue, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # a compiled file may lie there
    path = workspace / "sums.py"
    for body, status in (("return x * 2", "passed"), ("return x * 3", "wrong")) * 2:
        path.write_text(answer("double", body))
        os.utime(path, ns=(10**18, 10**18))
        assert verdict_on(catalogue, workspace, "twice", {}).status == status


def test_answers_installed_for_a_while_leave_those_before(workspace: Path, course: Path) -> None:
    with installed(course / "solutions"):
        install_answers(workspace)
        sums = importlib.import_module("my_transformer.sums")
        with installed(course / "solutions"):
            assert importlib.import_module("my_transformer.sums") is not sums
        assert sys.modules["my_transformer.sums"] is sums


def test_an_exercise_without_tests_is_a_fault_of_the_course(catalogue: Catalogue) -> None:
    with pytest.raises(LookupError, match="test_double__"):
        examination.tests_of(catalogue.exercise("twice"), [])


def test_the_errors_of_the_engine_are_of_two_kinds() -> None:
    """A learner's borrowed answer is a verdict; a wrong name is a mistake on the command line."""
    assert issubclass(CourseError, Exception) and not issubclass(NotTheirsError, CourseError)
