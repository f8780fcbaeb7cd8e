"""Ranks that cannot work together are refused at the start: by one of them, with status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.distributed.helpers import SMALL, Ended, free_port, run_ranks, spared, torchrun

from tiny_transformer.cli.main import main

LINE = ["train", *SMALL, "--training.max-steps", "4", "--run-name", "one"]


def message(ended: list[Ended], folder: Path) -> str:
    """Return the one message of ranks that were refused, with nothing left behind."""
    assert [one.status for one in ended] == [2] * len(ended), ended
    told = [line for one in ended for line in one.text.splitlines() if line.startswith("tiny: ")]
    assert len(told) == 1, ended
    assert not any("Traceback" in one.text for one in ended), ended
    assert not (folder / "runs").exists()
    return told[0]


@pytest.mark.requirement("distributed.refusals")
@pytest.mark.parametrize(
    ("n_ranks", "words", "wanted"),
    [
        (3, (), ["3 ranks", "does not divide the batch of 8", "--training.batch-size 9"]),
        (2, ("--training.batch-size", "1"), ["more than the batch has windows", "batch-size 2"]),
        (
            2,
            ("--training.accumulation-steps", "8"),
            ["2 ranks x 8 accumulation steps", "--training.batch-size 16"],
        ),
        (2, ("--training.shards", "2"), ["2 processes share each batch", "--training.shards 1"]),
        (2, ("--data.corpus", "nowhere.txt"), ["nowhere.txt"]),
        (2, ("--model.n-layer", "2"), []),
        (2, ("--optimizer.learning-rate", "nan"), ["learning_rate"]),
    ],
)
def test_what_no_number_of_ranks_could_do_is_told_once(
    tmp_path: Path, n_ranks: int, words: tuple[str, ...], wanted: list[str]
) -> None:
    ended = run_ranks(tmp_path, *[[*LINE, *words]] * n_ranks)
    if not wanted:  # a wrong flag: the parser's own message, from the first rank
        assert [one.status for one in ended] == [2] * n_ranks
        assert "n-layer" in ended[0].text and ended[1].text == ""
        return
    text = message(ended, tmp_path)
    assert all(part in text for part in wanted), text


@pytest.mark.requirement("distributed.differences")
def test_ranks_with_other_settings_are_named(tmp_path: Path) -> None:
    text = message(run_ranks(tmp_path, LINE, [*LINE, "--optimizer.beta1", "0.8"]), tmp_path)
    assert "optimizer.beta1 is 0.8 on rank 1, and 0.9 on rank 0" in text


@pytest.mark.requirement("distributed.differences")
def test_ranks_with_other_texts_are_named(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "text.txt").write_text(f"{number} " + "to be or not to be, " * 200)
    line = [*LINE, "--data.corpus", "text.txt"]
    text = message(run_ranks(tmp_path, line, line, folders=folders), tmp_path)
    assert "different corpora" in text and "on rank 1" in text and "share" in text


@pytest.mark.requirement("distributed.differences")
def test_a_mistake_that_one_rank_alone_finds_is_told_by_the_first(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "text.txt").write_text("to be or not to be, " * 200)
    line = [*LINE, "--data.corpus", "text.txt"]
    text = message(run_ranks(tmp_path, line, line, folders=folders), tmp_path)
    assert "Rank 1: " in text and "text.txt" in text


@pytest.mark.requirement("distributed.differences")
def test_a_run_that_ranks_see_differently_is_refused_and_unharmed(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    steps = [("6", "4"), ("6", "2")]
    for folder, (most, stop) in zip(folders, steps, strict=True):
        folder.mkdir()
        words = ["--training.max-steps", most, "--training.stop-at", stop]
        assert run_ranks(folder, [*LINE, *words])[0].status == 0
    before = [sorted(p for p in folder.rglob("*")) for folder in folders]
    line = ["resume", "runs/one", "--allow-numerics-change"]
    text = message(run_ranks(tmp_path, line, line, folders=folders), tmp_path)
    assert "the checkpoint is 'step-00000002' on rank 1" in text
    assert [sorted(p for p in folder.rglob("*")) for folder in folders] == before


@pytest.mark.requirement("distributed.rendezvous")
def test_others_that_cannot_be_reached_are_told_of_in_time(tmp_path: Path) -> None:
    line = [*LINE, "--distributed.timeout", "3"]
    environment = {"MASTER_PORT": str(free_port()), "LOCAL_RANK": "0"}
    ended = run_ranks(tmp_path, line, line, only=[1], environment=environment, timeout=60)
    text = message(ended, tmp_path)
    assert "could not be reached at 127.0.0.1:" in text and "within 3 s" in text


@pytest.mark.requirement("distributed.refusals")
def test_other_commands_do_not_run_on_several_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["eval", "runs/one"]) == 2
    assert "Only tiny train and tiny resume run so" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["eval", "runs/one"]) == 2
    assert capsys.readouterr().err == ""


def test_torchrun_ends_with_the_message_and_leaves_nothing(tmp_path: Path, torture: bool) -> None:
    spared(torture, rare=True)
    ended = torchrun(tmp_path, *LINE, "--training.batch-size", "3")
    assert ended.returncode == 1  # torchrun's own, whatever its processes say
    assert ended.stderr.count("tiny: Each step is shared by 2 ranks") == 1
    assert "exitcode  : 2" in ended.stderr
    assert not (tmp_path / "runs").exists()
