"""`docs/generation.md`: its example runs, and the flags that it names exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from tests.training.helpers import train

from tiny_transformer.cli.generate import Generate

pytestmark = pytest.mark.requirement("docs.generation")

PAGE = (Path(__file__).parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, result = train(tmp_path, model__context_length=64)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(example.replace('"RUN"', repr(str(result.folder.path))), {})
    assert re.search(r" (length|stop) -\d+\.\d+\n$", capsys.readouterr().out)


def test_every_flag_that_it_names_exists() -> None:
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", PAGE))
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(Generate)}
    assert len(flags) > 15
    assert flags <= fields
