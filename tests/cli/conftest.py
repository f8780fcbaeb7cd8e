"""One small trained run for all tests of the command line, and a copy for those that change it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.cli.helpers import SMALL

from tiny_transformer.cli.main import main


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of six steps, with checkpoints at 3 and 6; nobody changes it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_TRANSFORMER_CACHE", str(folder / "cache"))
        words = ["--runs-dir", str(folder / "runs"), "--run-name", "small"]
        assert main(["train", *SMALL, *words]) == 0
    return folder / "runs" / "small"


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run that a test may change."""
    return Path(shutil.copytree(trained_run, tmp_path / "runs" / "small"))


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every command run in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """Return the variables of a command that a test starts."""
    plain = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    plain.pop("PYTHONUNBUFFERED", None)  # output is buffered, as for a user
    return plain
