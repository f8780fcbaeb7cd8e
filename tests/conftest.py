"""Every test has its own cache folder, no network and at most two threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "house",
    deadline=None,  # shared machines are uneven
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("house")
torch.set_num_threads(min(2, torch.get_num_threads()))
_counts: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", action="store_true", help="break the package at every point, not at some"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _counts:
        terminalreporter.section("what the package survived")
        for what, number in sorted(_counts.items()):
            terminalreporter.write_line(f"{number:12,}  {what}")


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether `--torture` asks for every point."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture(scope="session")
def count() -> Callable[[str, int], None]:
    """Add to a number in the table at the end: `count("points killed", 1)`."""

    def add(what: str, number: int = 1) -> None:
        _counts[what] += number

    return add


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Let Python have its smallest numbers back after a test in which a CPU computed."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the package's cache into the test's own folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TINY_TRANSFORMER_CACHE", str(folder))
    return folder
