"""Lets pytest run a module's own tests, on the solutions or on the answers in any folder.

make test-module MODULE=01_attention
.venv/bin/python -m pytest course/01_attention --answers my_transformer
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny_transformer.course.answers import install_answers
from tiny_transformer.course.content import SOLUTIONS
from tiny_transformer.runtime.random_state import forked_rng


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--answers`."""
    parser.addoption(
        "--answers",
        type=Path,
        default=Path(__file__).parent / SOLUTIONS,
        help="the folder of answers that the tests of the course grade (default: the solutions)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make `import my_transformer` mean that folder, before the tests are imported."""
    folder = Path(str(config.getoption("--answers"))).resolve()
    if not folder.is_dir():
        raise pytest.UsageError(f"--answers: {folder} is not a folder")
    install_answers(folder)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Give every test the same random numbers, as the checker does."""
    with forked_rng(0):
        yield
