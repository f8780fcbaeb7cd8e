"""Where a run lies, and how it is found again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import CheckpointError, RunError, StorageError
from tiny_transformer.tracking.run_folder import RunFolder, find_run, new_run_id, step_of


def made(parent: Path, name: str, *steps: int) -> RunFolder:
    folder = RunFolder.create(parent, name)
    (folder.path / "config.yaml").write_text("")
    for step in steps:
        checkpoint = folder.checkpoint(step)
        checkpoint.mkdir(parents=True)
        (checkpoint / "metadata.json").write_text("{}")
    return folder


def test_a_run_id_is_a_time_and_six_hex_digits_and_each_is_another() -> None:
    ids = {new_run_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run_id) for run_id in ids)


def test_a_run_without_a_name_gets_an_id(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "runs", None)
    assert folder.path.is_dir()
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", folder.run_id)


def test_the_places_in_a_run_are_those_of_the_plan(tmp_path: Path) -> None:
    folder = RunFolder.create(str(tmp_path), "mine")
    assert folder.path == tmp_path / "mine"
    assert folder.run_id == "mine"
    assert folder.log == tmp_path / "mine" / "log.jsonl"
    assert folder.checkpoint(200) == tmp_path / "mine" / "checkpoints" / "step-00000200"
    assert folder.sample(200) == tmp_path / "mine" / "samples" / "step-00000200.txt"
    assert step_of(folder.checkpoint(200)) == 200


@pytest.mark.requirement("bad.run-exists")
def test_a_name_that_is_taken_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    made(tmp_path, "mine", 1)
    with pytest.raises(RunError, match=r"mine exists already.*--run-name.*tiny resume") as caught:
        RunFolder.create(tmp_path, "mine")
    assert caught.value.exit_status == 2
    (tmp_path / "file").write_text("text")
    with pytest.raises(RunError, match="exists already"):
        RunFolder.create(tmp_path, "file")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.requirement("bad.run-exists")
def test_of_two_that_make_a_run_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def somebody_was_first(path: Path) -> None:
        path.mkdir()
        (path / "config.yaml").write_text("theirs")
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(files, "os_mkdir", somebody_was_first)
    with pytest.raises(RunError, match="somebody else"):
        RunFolder.create(tmp_path, "mine")
    assert (tmp_path / "mine" / "config.yaml").read_text() == "theirs"


@pytest.mark.requirement("bad.unwritable")
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(StorageError, match="file is in the way"):
        RunFolder.create(tmp_path / "file", "mine")


def test_checkpoints_are_whole_ones_in_the_order_of_their_steps(tmp_path: Path) -> None:
    folder = made(tmp_path, "mine", 200, 3, 100_000_000, 99_999_999)
    for name in ("step-00000004", "step-4", ".step-00000005.ab.tmp", "step-abc", "other"):
        (folder.path / "checkpoints" / name).mkdir()
    for name in ("step-4", ".step-00000005.ab.tmp", "step-abc", "other"):
        (folder.path / "checkpoints" / name / "metadata.json").write_text("{}")
    found = folder.checkpoints()
    assert [step_of(path) for path in found] == [3, 200, 99_999_999, 100_000_000]
    assert folder.latest_checkpoint() == found[-1]


def test_a_run_without_checkpoints_says_what_to_do(tmp_path: Path) -> None:
    folder = made(tmp_path, "mine")
    assert folder.checkpoints() == []
    with pytest.raises(CheckpointError, match=r"mine has no checkpoint.*checkpoint-every"):
        folder.latest_checkpoint()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_run("mine", tmp_path)


def test_a_run_is_found_by_folder_id_and_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "runs", "mine", 1, 2)
    latest, first = folder.checkpoint(2), folder.checkpoint(1)
    for reference in (folder.path, str(folder.path), "mine"):
        assert find_run(reference, tmp_path / "runs") == (folder, latest)
    assert find_run(first) == (folder, first)
    assert find_run(str(first) + "/") == (folder, first)
    monkeypatch.chdir(tmp_path)
    assert find_run("mine")[1].resolve() == latest
    assert find_run("runs/mine/checkpoints/step-00000001")[0].run_id == "mine"
    monkeypatch.chdir(first)
    found, checkpoint = find_run(".")
    assert (found.path, checkpoint.resolve()) == (folder.path, first)


@pytest.mark.parametrize("reference", ["mime", "", "a" * 5000, "nul\0", "runs"])
def test_what_is_not_a_run_is_refused_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    made(tmp_path / "runs", "mine", 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="mine") as caught:
        find_run(reference)
    assert caught.value.exit_status == 2
    if reference == "mime":
        assert "Did you mean 'mine'?" in str(caught.value)


def test_without_any_run_the_way_to_make_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="tiny train"):
        find_run("mine", tmp_path)
