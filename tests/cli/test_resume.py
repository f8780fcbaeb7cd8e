"""`tiny resume`: a run that was stopped ends as if it had not been."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.cli.helpers import SMALL, fingerprints, refusal

from tiny_transformer.cli.main import main
from tiny_transformer.runtime import files
from tiny_transformer.tracking.run_log import metric_by_step, read_log


def losses(run: Path) -> dict[int, float]:
    return metric_by_step(read_log(run / "log.jsonl"), "train", "loss")


def weights(run: Path, step: int = 6) -> bytes:
    return (run / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


@pytest.mark.requirement("checkpoint.exact-resume")
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_continues_to_the_same_losses_and_weights(
    stop: int, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run-name", "stopped", "--training.stop-at", str(stop)]
    assert main(["train", *SMALL, *words]) == 0
    stopped = Path("runs/stopped")
    assert list(losses(stopped)) == list(range(1, stop + 1))
    capsys.readouterr()
    assert main(["resume", "stopped"]) == 0
    out, err = capsys.readouterr()
    assert f"Continuing after step {stop}." in err
    assert "after 6 steps" in out and "before training" not in out
    assert losses(stopped) == losses(trained_run)
    assert list(losses(stopped)) == [1, 2, 3, 4, 5, 6]
    assert weights(stopped) == weights(trained_run)


@pytest.mark.requirement("checkpoint.exact-resume")
def test_an_older_checkpoint_is_continued_to_the_same_end(run: Path, trained_run: Path) -> None:
    older = run / "checkpoints" / "step-00000003"
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    assert main(["resume", str(older)]) == 0
    assert losses(run) == losses(trained_run)
    assert weights(run) == weights(trained_run)
    steps = [line["step"] for line in read_log(run / "log.jsonl") if line["event"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6, 4, 5, 6]  # appended; the later lines count


def test_a_run_is_found_from_inside_its_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    assert main(["resume", ".", "--training.max-steps", "7"]) == 0
    assert {line["run_id"] for line in read_log(Path("log.jsonl"))} == {"small"}
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6, 7]


def test_stop_at_holds_for_a_resumed_run_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--training.max-steps", "20", "--training.stop-at", "8"]
    assert main(["resume", str(run), *more]) == 0
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert main(["resume", str(run), "--training.stop-at", "9"]) == 0  # the horizon was kept
    assert list(losses(run))[-1] == 9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["is complete", "6 of 6 steps", "--training.max-steps 12"]),
        (["--training.max-steps", "3"], ["is complete", "--training.max-steps 12"]),
        (["--training.max-steps", "0"], ["training.max_steps is 0"]),
        (["--training.max-steps", "-4"], ["training.max_steps is -4"]),
        (["--training.stop-at", "0"], ["training.stop_at is 0"]),
    ],
)
def test_nothing_to_continue_is_refused(
    words: list[str], told: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(run)
    message = refusal(capsys, "resume", str(run), *words)
    assert all(part in message for part in told), message
    assert fingerprints(run) == before


def test_a_corpus_that_has_changed_or_gone_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    corpus = tmp_path / "mine.txt"
    corpus.write_text("Round and round it goes.\n" * 60)
    words = [*SMALL, "--data.corpus", "mine.txt", "--training.stop-at", "2"]
    assert main(["train", *words, "--run-name", "mine"]) == 0
    before = fingerprints(Path("runs"))
    with corpus.open("a") as file:
        file.write("One more line.\n")
    assert "it has changed since" in refusal(capsys, "resume", "mine")
    corpus.unlink()
    assert "There is no file or folder 'mine.txt'" in refusal(capsys, "resume", "mine")
    assert fingerprints(Path("runs")) == before


@pytest.mark.requirement("bad.full-disk")
@pytest.mark.parametrize("fails", [0, 3, 9])
def test_a_full_disk_keeps_every_checkpoint_and_line(
    fails: int,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, log, left = fingerprints(run), (run / "log.jsonl").read_bytes(), [fails]

    def write(descriptor: int, data: memoryview) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data)

    monkeypatch.setattr(files, "os_write", write)
    words = ["resume", str(run), "--training.max-steps", "8"]
    assert "The disk is full" in refusal(capsys, *words, begun=True)
    after = fingerprints(run)
    assert (run / "log.jsonl").read_bytes().startswith(log)
    assert {k: after[k] for k in before if k != "log.jsonl"} == {
        k: v for k, v in before.items() if k != "log.jsonl"
    }
    monkeypatch.setattr(files, "os_write", os.write)
    assert main(words) == 0  # when there is room again, nothing stands in the way
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.requirement("resume.numerics-change")
def test_other_threads_are_told_and_a_flag_allows_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    further = ["resume", str(run), "--training.max-steps", "8"]
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        told = refusal(capsys, *further)
        assert f"threads: {before} then, {before + 1} now" in told
        assert main([*further, "--allow-numerics-change"]) == 0
    finally:
        torch.set_num_threads(before)
    assert f"threads: {before} then, {before + 1} now" in capsys.readouterr().err
