"""The page on trust names tests that exist, and one for each promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")


@pytest.mark.requirement("docs.reproducibility")
def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.requirement("docs.reproducibility")
def test_every_fault_test_stands_on_the_page() -> None:
    present = {f"tests/faults/{path.name}" for path in (ROOT / "tests/faults").glob("test_*.py")}
    assert present
    assert [name for name in sorted(present) if name not in PAGE] == []


@pytest.mark.requirement("docs.reproducibility")
def test_every_promise_has_a_test_beside_it() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and "---" not in line]
    promises = [row for row in rows if not row.startswith(("| promise", "| count", "| what"))]
    assert len(promises) > 10
    for row in promises:
        assert "`tests/" in row or re.search(r"\| *[\d,]+ *\|", row), row
