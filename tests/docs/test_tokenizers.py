"""`docs/tokenizers.md`: its example runs, and its commands name flags that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tiny_transformer.cli.main import main

pytestmark = pytest.mark.requirement("docs.tokenizers")

PAGE = (Path(__file__).parents[2] / "docs" / "tokenizers.md").read_text(encoding="utf-8")


def flags_of(command: str, *, also: str = "") -> set[str]:
    """Return the flags that the page gives a command, also in the variable that it uses."""
    lines = [line for line in PAGE.splitlines() if line.startswith(f"tiny {command} ")]
    assert lines, command
    return set(re.findall(r"(?<![\w-])(--[a-z][\w.-]*)", " ".join([*lines, also])))


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(example, {})
    (shown,) = re.findall(r"^# (\[.*\])$", example, re.M)
    assert capsys.readouterr().out == f"{shown}\n"


def test_every_flag_that_it_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    (shared,) = re.findall(r'^S="(.*?)"$', PAGE, re.M | re.S)
    for command, also, least in (("train", shared, 10), ("data describe", "", 2)):
        flags = flags_of(command, also=also)
        try:
            status = main([*command.split(), "--help"])
        except SystemExit as end:
            status = end.code
        assert not status
        known = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
        assert len(flags) >= least and flags <= known, flags - known
