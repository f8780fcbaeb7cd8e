"""What was changed since a run wrote it is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.helpers import CHECKPOINT_FILES, bytes_below, resumed, train

from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import RunLog, read_log
from tiny_transformer.training.replay import Difference, Replay
from tiny_transformer.training.verify import Finding, replay_finding, verify_files

pytestmark = pytest.mark.requirement("runs.verify")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("verified")
        patch.setenv("TINY_TRANSFORMER_CACHE", str(folder / "cache"))
        changes = {"training__checkpoint_every": 2, "training__sample_every": 3}
        return train(folder, training__eval_every=2, **changes)[1].folder


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "runs" / "run")))


def wrong(run: RunFolder) -> list[Finding]:
    return [finding for finding in verify_files(run) if not finding.ok]


def rewrite(folder: RunFolder, change: Callable[[dict[str, Any]], bool]) -> None:
    """Change a log line by line, leave some out, and chain all of it anew, as a cheat would."""
    lines = read_log(folder.log)
    folder.log.unlink()
    log = RunLog(folder.log, {n: lines[0][n] for n in ("run_id", "config_hash", "git_commit")})
    for line in lines:
        del line["chain"]
        if change(line):
            log.write(**line)
    log.close()


def test_a_run_as_it_was_written_is_whole_and_stays_so(run: RunFolder) -> None:
    before = bytes_below(run.path)
    findings = list(verify_files(run))
    assert all(finding.ok for finding in findings)
    assert [finding.what for finding in findings] == [
        *("log.jsonl", "config.yaml", "environment.json", "vocab.json"),
        *(f"samples/step-0000000{n}.txt" for n in (0, 3, 6)),
        *(f"step-0000000{n}" for n in (2, 4, 6)),
    ]
    assert bytes_below(run.path) == before


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "environment.json", "vocab.json", "samples/step-00000003.txt"],
)
def test_a_file_that_was_changed_or_is_gone_is_named(run: RunFolder, name: str) -> None:
    file = run.path / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (finding,) = wrong(run)
    assert (finding.what, finding.detail) == (name, "changed since")
    file.unlink()
    (finding,) = wrong(run)
    assert finding.what == name
    assert "missing" in finding.detail or "cannot be read" in finding.detail


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_checkpoints_file_that_was_changed_is_named(run: RunFolder, name: str) -> None:
    file = run.checkpoint(4) / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    (finding,) = wrong(run)
    assert finding.what == "step-00000004"
    assert str(file) in finding.detail


@pytest.mark.requirement("record.chain")
def test_a_changed_line_is_named(run: RunFolder) -> None:
    lines = run.log.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b'"event"', b'"evenT"')
    run.log.write_bytes(b"\n".join(lines))
    (finding,) = wrong(run)
    assert finding.what == "log.jsonl"
    assert "line 5 is not what was written" in finding.detail


@pytest.mark.requirement("record.chain")
def test_lines_taken_from_the_end_are_missed_by_the_checkpoints_saved_after_them(
    run: RunFolder,
) -> None:
    lines = run.log.read_bytes().splitlines(keepends=True)
    events = [(line["event"], line["step"]) for line in read_log(run.log)]
    for kept in range(1, len(lines)):
        run.log.write_bytes(b"".join(lines[:kept]))
        gone = [s for e, s in events[kept:] if e == "checkpoint"]
        saved_after = [
            step
            for step in (2, 4, 6)
            if kept < events.index(("checkpoint", step))  # the line before is what it remembers
        ]
        named = [int(f.what[5:]) for f in wrong(run) if "one is gone" in f.detail]
        assert named == saved_after, kept
        assert len(gone) - len(named) <= 1
    run.log.write_bytes(b"")
    assert wrong(run)[0].detail == "there is no line in it"


@pytest.mark.requirement("record.chain")
def test_a_log_that_was_chained_anew_is_not_the_one_that_checkpoints_remember(
    run: RunFolder,
) -> None:
    rewrite(run, lambda line: line["event"] != "sample" or line["step"] != 3)
    assert [finding.what for finding in wrong(run)] == ["step-00000004", "step-00000006"]


@pytest.mark.requirement("record.loss-bits")
@pytest.mark.parametrize(("event", "name"), [("train", "loss"), ("eval", "val_loss")])
def test_a_loss_and_bits_that_disagree_are_named(run: RunFolder, event: str, name: str) -> None:
    def halve(line: dict[str, Any]) -> bool:
        if line["event"] == event and line["step"] == 4:
            line[name] /= 2
        return True

    rewrite(run, halve)
    assert wrong(run)[0].what == "log.jsonl"
    assert wrong(run)[0].detail.startswith(f"at step 4 {name} is ")


@pytest.mark.parametrize("forged", ["token", "blocks.0.mlp", "the optimizer state"])
def test_weights_that_the_log_does_not_know_are_named(run: RunFolder, forged: str) -> None:
    names = [forged]

    def forge(line: dict[str, Any]) -> bool:
        if line["event"] == "checkpoint" and line["step"] == 6:
            if forged == "the optimizer state":
                line["optimizer_sha256"] = "0" * 64
            else:
                names[0] = next(name for name in line["tensors"] if forged in name)
                line["tensors"][names[0]] = "0" * 64
        return True

    rewrite(run, forge)
    (finding,) = wrong(run)
    assert finding.what == "step-00000006"
    assert finding.detail == f"{names[0]} is not what the log says was saved"


def test_a_checkpoint_that_a_crash_kept_out_of_the_log_is_whole(run: RunFolder) -> None:
    lines = run.log.read_bytes().splitlines(keepends=True)
    index = next(i for i, x in enumerate(read_log(run.log)) if x.get("path", "")[-1:] == "6")
    run.log.write_bytes(b"".join(lines[:index]))
    last = list(verify_files(run))[-1]
    assert (last.ok, last.detail) == (True, "whole; the log does not mention it")


def test_what_a_resume_made_anew_is_compared_with_the_new_lines(tmp_path: Path) -> None:
    changes = {"training__checkpoint_every": 2, "schedule__name": "linear"}
    folder = train(tmp_path, **changes)[1].folder
    resumed(folder.checkpoint(2), max_steps=20, stop_at=6).train()
    assert wrong(folder) == []


def test_a_log_of_another_program_is_no_traceback(run: RunFolder) -> None:
    lines = [
        {"event": "start", "step": 0, "files": ["config.yaml"]},
        {"event": "sample", "step": 1},
        {"event": "sample", "step": "1", "prompt": 1, "text": None},
        {"event": "train", "step": 1, "loss_bits": "x"},
        {"event": "checkpoint", "step": 2, "tensors": []},
        {"event": "checkpoint"},
    ]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert wrong(run)[0].what == "log.jsonl"
    run.log.unlink()
    log = RunLog(run.log, {})
    for line in lines:
        log.write(**{"step": 0, **line})
    log.close()
    assert "at step 1 loss is None" in wrong(run)[0].detail


def test_a_replay_is_told_in_words() -> None:
    found = Replay(None, 3, 7, losses=1, checkpoints=2, notes=["from step 1, torch: 1 then, 2 now"])
    told = replay_finding(found)
    assert (told.what, told.ok, told.notes) == ("steps 3 to 7", True, tuple(found.notes))
    assert told.detail == (
        "replayed from the beginning: 1 loss and 2 checkpoints equal, to the last bit"
    )
    found.difference = Difference(5, "loss", "3ff0000000000000", "what")
    told = replay_finding(found)
    assert not told.ok
    assert told.detail == (
        "the loss first differs at step 5: 1.0 (3ff0000000000000) recorded, 'what' found"
    )
    found.difference = Difference(6, "val_loss", "3ff0000000000000", "4000000000000000")
    assert "the validation loss first differs at step 6: 1.0" in replay_finding(found).detail
    found.difference = Difference(6, "lm_head.weight", "a", "b")
    assert "at the checkpoint of step 6 the first tensor to differ is lm_head.weight" in (
        replay_finding(found).detail
    )
