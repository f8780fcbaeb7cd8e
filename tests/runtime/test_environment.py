"""The record of what a run was made with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tiny_transformer.runtime import environment
from tiny_transformer.runtime.environment import (
    describe_environment,
    describe_numerics,
    git_commit,
    git_dirty,
    package_version,
    processor_name,
)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").write_text("1")
    git(folder, "add", "file")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_commit_is_that_of_the_folder(repository: Path) -> None:
    commit = git_commit(repository)
    assert commit == git(repository, "rev-parse", "HEAD")
    assert commit is not None
    assert len(commit) == 40


def test_a_changed_tracked_file_is_dirty_and_an_untracked_one_is_not(repository: Path) -> None:
    (repository / "notes").write_text("untracked")
    assert git_dirty(repository) is False
    (repository / "file").write_text("2")
    assert git_dirty(repository) is True


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    assert git_dirty(tmp_path) is None


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) is None


@pytest.mark.parametrize(
    "failure", [FileNotFoundError("no git"), subprocess.TimeoutExpired("git", 10)]
)
def test_a_machine_without_git_has_no_commit(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(environment.subprocess, "run", fail)
    assert git_commit() is None
    assert git_dirty() is None


def test_versions_are_those_installed() -> None:
    assert package_version("torch") == torch.__version__
    assert package_version("no-such-distribution-anywhere") is None


def test_the_processor_has_a_name_even_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor_name()

    def fail(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    assert processor_name()


def test_the_description_is_json_and_holds_what_can_change_the_numbers() -> None:
    described = describe_environment(describe_numerics(torch.device("cpu"), "float32"))
    assert json.loads(json.dumps(described)) == described
    assert (described["device"], described["precision"]) == ("cpu", "float32")
    assert described["threads"] == torch.get_num_threads()
    assert described["device_name"] is None
    assert described["packages"]["torch"] == torch.__version__
    assert described.keys() >= {"python", "platform", "processor", "cpu_count", "git_commit"}
    assert "git_dirty" in described
