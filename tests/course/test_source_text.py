"""One definition is put in the place of another, and every other character stays."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_transformer.course.content import CourseError
from tiny_transformer.course.source_text import Source, fingerprint, parse_source, read_source

NAMES = ("first", "second", "third")
MISSING = "import math\nimport torch.nn.functional as F\n"
STUB = '# How to.\ndef second(x: int) -> int:\n    """Do it."""\n    raise NotImplementedError\n'


@st.composite
def definitions(draw: st.DrawFn, name: str) -> str:
    """A function, class or constant, with comments and decorators."""
    indent = draw(st.sampled_from(["    ", "\t", "  "]))
    comments = draw(st.sampled_from(["", "# about it\n", "# one\n# two: def x():\n"]))
    decorators = draw(st.sampled_from(["", "@staticmethod\n", "@print\n@id\n"]))
    body = draw(
        st.sampled_from(
            [
                "pass\n",
                "x = 1  # why\n\nINreturn x\n",
                'text = """\n# not a comment\ndef second(): ...\n"""\n',
                "if 1:\nININpass\nIN# at the end\n",
                "return (1 +\n2)\n\nIN# after a blank line\n",
                "def second():\nININpass\n",
            ]
        )
    ).replace("IN", indent)
    kind = draw(st.sampled_from(["def {}():\n", "class {}:\n", "async def {}():\n"]))
    if draw(st.booleans()) and not decorators:
        return f"{comments}{name} = lambda x: (x,\n  1)\n"
    body = body.replace("return x", "x") if kind.startswith("class") else body
    body = body.replace("return (", "y = (") if kind.startswith("class") else body
    return f"{comments}{decorators}{kind.format(name)}{indent}{body}"


@st.composite
def modules(draw: st.DrawFn) -> tuple[str, str, str]:
    """A file in three parts: before `second`, its definition, and after."""
    gap = draw(st.sampled_from(["\n", "\n\n", "\nx = 1\n\n", "\n# a note\n\n"]))
    top = draw(st.sampled_from(["", '"""Doc."""\n', "from __future__ import annotations\n"]))
    before = top + draw(definitions("first")) + gap
    after = gap + draw(definitions("third"))
    return before, draw(definitions("second")), after


@pytest.mark.requirement("course.reset")
@settings(max_examples=150)
@given(modules(), st.sampled_from(["\n", "\r\n"]))
def test_only_the_one_definition_is_replaced(parts: tuple[str, str, str], end: str) -> None:
    before, old, after = (part.replace("\n", end) for part in parts)
    source = parse_source(before + old + after)
    assert source.text("second").rstrip() == old.rstrip()
    replaced = source.with_definition("second", STUB)
    assert replaced == before + STUB.replace("\n", end) + after
    again = parse_source(replaced)
    assert again.with_definition("second", STUB) == replaced
    assert again.text("first") == source.text("first")


@given(modules())
def test_a_definition_that_is_not_there_goes_to_the_end(parts: tuple[str, str, str]) -> None:
    source = parse_source("".join(parts))
    replaced = source.with_definition("fourth", STUB.replace("second", "fourth"))
    assert replaced.startswith("".join(parts).rstrip())
    assert parse_source(replaced).definitions()[-1] == "fourth"


def test_the_last_definition_counts_and_those_that_it_hid_go() -> None:
    source = parse_source("def second(): 1\nx = 1\nsecond = 2\ny = 2\ndef second(): 3\nz = 3\n")
    assert source.text("second") == "def second(): 3\n"
    assert source.with_definition("second", STUB) == f"x = 1\ny = 2\n{STUB}z = 3\n"


def test_names_inside_conditions_are_seen() -> None:
    text = "if 1:\n    def a(): ...\nelse:\n    b = 1\n"
    text += "try:\n    import c.d as e\nexcept E:\n    f: int = 1\n"
    source = parse_source(text + "from g import h as i, j\nk, (l, m) = 1, (2, 3)\n")
    assert source.names() == set("abefijklm")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", MISSING),
        ('"""Doc."""\nimport os\nx = 1\n', f'"""Doc."""\nimport os\n{MISSING}x = 1\n'),
        ("import math\n", MISSING),
        ("if 1:\n    math = F = 1\n", "if 1:\n    math = F = 1\n"),
        (
            "from __future__ import x\r\ny = 1\r\n",
            f"from __future__ import x\n{MISSING}y = 1\n".replace("\n", "\r\n"),
        ),
    ],
)  # fmt: skip
def test_imports_that_a_stub_uses_are_added(text: str, expected: str) -> None:
    stubs = parse_source("import math\nimport os\nimport torch.nn.functional as F\n")
    source = Source(parse_source(text).lines, ast.parse(text.replace("__future__", "f")))
    assert source.with_imports_of(stubs, "def f(x: F.T = math.pi): ...") == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"def f(:\n", "in line 1"),
        (b"x = 1\n\tif:\n", "in line 2"),
        (b"x = '\xff'\n", "cannot be read as Python"),
        (b"x = 1\0", "null bytes"),
    ],
)
def test_a_file_that_is_not_python_is_told_so(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "attention.py"
    path.write_bytes(content)
    with pytest.raises(CourseError, match=told):
        read_source(path)
    assert fingerprint(path, "f") == ""


def test_a_fingerprint_is_of_the_code(tmp_path: Path) -> None:
    path = tmp_path / "a.py"

    def of(text: str) -> str:
        path.write_text(text)
        return fingerprint(path, "f")

    first = of("def f(x):\n    return x\n")
    assert first and first == of(
        "import os\n\n# why\ndef f(x):  \n\n    # here\n    return x\n\ny = 1\n"
    )
    assert first != of("def f(x):\n    return -x\n")
    assert of("y = 1\n") == ""
    assert fingerprint(tmp_path / "none.py", "f") == ""
