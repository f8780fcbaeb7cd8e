"""`tiny runs`: tables, strict JSON and pictures of runs, and what is no longer as it was."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.cli.helpers import SMALL, complaint, fingerprints, refusal

from tiny_transformer.cli import runs_tables
from tiny_transformer.cli.main import main
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import RunLog, bits_of, read_log


def output(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["runs", *words]) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return out


def strict(text: str) -> Any:
    """Read JSON that has neither NaN nor infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def rewrite(run: Path, **changes: Any) -> None:
    """Change the training line of step 5, and chain the whole log anew."""
    lines = read_log(run / "log.jsonl")
    (run / "log.jsonl").unlink()
    log = RunLog(
        run / "log.jsonl", {n: lines[0][n] for n in ("run_id", "config_hash", "git_commit")}
    )
    for line in lines:
        del line["chain"]
        chosen = (line["event"], line["step"]) == ("train", 5)
        log.write(**{**line, **(changes if chosen else {})})
    log.close()


def copy(run: Path, name: str, **start: Any) -> Path:
    """Copy a run, with other entries in its first line."""
    path = Path(shutil.copytree(run, run.parent / name))
    first, *rest = (path / "log.jsonl").read_text().splitlines(keepends=True)
    (path / "log.jsonl").write_text(
        json.dumps({**json.loads(first), **start}) + "\n" + "".join(rest)
    )
    return path


# list and show


@pytest.mark.requirement("runs.list")
def test_runs_are_listed_by_their_start_whatever_lies_beside_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(run, "older", time="2001-01-01T00:00:00+00:00")
    copy(run, "newer", time="2999-01-01T00:00:00+00:00")
    (run.parent / "foreign").mkdir()
    (run.parent / "foreign" / "log.jsonl").write_text('{"level": "info"}\n\x00\n[1]\n')
    (run.parent / "damaged" / "log.jsonl").mkdir(parents=True)
    (run.parent / "nothing").mkdir()
    (run.parent / "a file").write_text("")
    lines = output(capsys, "list").splitlines()
    names = [line.split()[0] for line in lines if line.strip(" ─")]
    assert names == ["run", "foreign", "older", "small", "newer"]
    found = strict(output(capsys, "list", "--json"))
    assert [entry["run_id"] for entry in found] == names[1:]
    assert main(["runs", "list"]) == 0
    assert "damaged/log.jsonl cannot be read" in capsys.readouterr().err
    assert all(line == line.rstrip() or len(line) <= 160 for line in lines)


@pytest.mark.requirement("runs.list")
def test_a_terminal_of_80_columns_shows_each_run_whole_on_a_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(run, "20260131-142530-9f3a1c", max_steps=10000)
    monkeypatch.setattr(runs_tables, "_console", lambda: Console(width=80, highlight=False))
    lines = output(capsys, "list").splitlines()
    assert max(map(len, lines)) <= 80
    shown = next(line for line in lines if "20260131-142530-9f3a1c" in line)
    logged = [x for x in read_log(run / "log.jsonl") if x["event"] == "eval"][-1]["val_loss"]
    assert shown.split()[1:] == ["paused", "6/10,000", *2 * [f"{logged:.4f}"], "@6"]


@pytest.mark.requirement("runs.list")
def test_a_run_is_shown_with_all_that_is_known_of_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = output(capsys, "show", "small")
    shown = dict(line.rstrip().split("  ", 1) for line in table.splitlines())
    assert shown["checkpoints"].strip() == "3, 6"
    assert shown["seed"].strip() == "1337"
    found = strict(output(capsys, "show", str(run), "--json"))
    assert (found["status"], found["step"], found["checkpoints"]) == ("complete", 6, [3, 6])
    log = run / "log.jsonl"
    log.write_text(log.read_text().replace('"val_loss": ', '"val_loss": "nan", "was": '))
    found = strict(output(capsys, "show", str(run), "--json"))
    assert (found["val_loss"], found["best_val_loss"]) == ("nan", None)


@pytest.mark.requirement("runs.list")
def test_no_runs_and_wrong_names_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There are no runs in none/" in output(capsys, "list", "--runs-dir", "none")
    assert output(capsys, "list", "--runs-dir", "none", "--json").strip() == "[]"
    for command in ("show", "verify", "plot"):
        assert "Did you mean 'small'?" in refusal(capsys, "runs", command, "smal")


@pytest.mark.requirement("runs.list")
def test_two_hundred_runs_are_listed_in_seconds(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    train = next(line for line in lines if b'"train"' in line)
    log = lines[0] + b"".join(train.replace(b'"step": 1', b'"step": %d' % n) for n in range(1000))
    for number in range(200):
        folder = tmp_path / "many" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_bytes(log)
    began = time.process_time()
    assert len(strict(output(capsys, "list", "--runs-dir", "many", "--json"))) == 200
    assert time.process_time() - began < 15


# compare


@pytest.mark.requirement("runs.compare")
def test_runs_are_compared_by_settings_and_by_what_they_reached(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run-name", "other", "--training.seed", "7", "--model.dropout", "0.25"]
    assert main(["train", *SMALL, *words]) == 0
    found = strict(output(capsys, "compare", "small", "other", "--json"))
    assert found["settings"] == {
        "model.dropout": {"small": 0.1, "other": 0.25},
        "training.seed": {"small": 1337, "other": 7},
    }
    assert list(found["runs"]) == ["small", "other"]
    assert found["losses_differ_at"] == 1
    table = output(capsys, "compare", "small", "other")
    rows = [line.split() for line in table.splitlines()]
    assert ["training.seed", "1337", "7"] in rows
    assert ["seed", "1337", "7"] in rows
    assert ["status", "complete", "complete"] in rows
    assert "Their losses first differ at step 1." in table


@pytest.mark.requirement("runs.compare")
def test_equal_runs_are_told_so_and_runs_of_one_name_are_told_apart(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    twin = Path(shutil.copytree(run, tmp_path / "elsewhere" / "small"))
    table = output(capsys, "compare", "small", str(twin))
    assert "Their settings are the same." in table
    assert "equal, to the last bit" in table
    found = strict(output(capsys, "compare", "small", str(twin), "--json"))
    assert (found["settings"], found["losses_differ_at"]) == ({}, None)
    assert list(found["runs"]) == ["small", str(twin)]
    rewrite(twin, loss=1.0, loss_bits=bits_of(1.0))
    assert "differ at step 5" in output(capsys, "compare", "small", str(twin))
    assert main(["resume", str(twin), "--training.max-steps", "7"]) == 0
    found = strict(output(capsys, "compare", "small", str(twin), "--json"))
    assert found["settings"] == {"training.max_steps": {"small": 6, str(twin): 7}}
    assert "takes two runs or more" in refusal(capsys, "runs", "compare", "small")
    assert "more than once" in refusal(capsys, "runs", "compare", "small", str(run))


# plot


@pytest.mark.requirement("runs.plot")
def test_the_losses_of_several_runs_are_drawn_into_one_picture(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(run, "second")
    for name, magic in (("a.png", b"\x89PNG"), ("b.pdf", b"%PDF"), ("c.svg", b"<?xml")):
        assert output(capsys, "plot", "small", "second", "--output", name) == f"Wrote {name}\n"
        assert Path(name).read_bytes().startswith(magic)
    drawn = Path("c.svg").read_text()
    assert all(f"{label}: training" in drawn for label in ("small", "second"))


@pytest.mark.requirement("runs.plot")
def test_what_cannot_be_drawn_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = copy(run, "empty")
    (empty / "log.jsonl").write_text("")
    assert "The run empty has no losses" in refusal(capsys, "runs", "plot", "small", "empty")
    assert "must end in .png" in refusal(capsys, "runs", "plot", "small", "--output", "a.bmp")
    assert "more than once" in refusal(capsys, "runs", "plot", "small", "small")
    assert "one run or more" in refusal(capsys, "runs", "plot")
    assert not list(Path().glob("*.*"))


# verify


@pytest.mark.requirement("runs.verify")
def test_a_run_that_is_as_it_was_is_verified_and_left_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(run)
    text = output(capsys, "verify", "small")
    assert text.endswith("All is as it was written.\n")
    assert "steps 4 to 6: replayed from step-00000003: 4 losses and 1 checkpoint equal" in text
    found = strict(output(capsys, "verify", "small", "--from", "1", "--to", "5", "--json"))
    assert found["ok"]
    assert found["findings"][-1]["what"] == "steps 1 to 5"
    found = strict(output(capsys, "verify", "small", "--no-replay", "--json"))
    assert found["findings"][-1]["what"] == "step-00000006"
    assert fingerprints(run) == before


@pytest.mark.requirement("runs.verify")
def test_a_forged_loss_in_a_log_that_was_chained_anew_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run, loss=1.0, loss_bits=bits_of(1.0))
    text = output(capsys, "verify", "small", status=2)
    assert "WRONG steps 4 to 6: the loss first differs at step 5: 1.0 (3ff0" in text
    assert "WRONG step-00000006: the log lacks the line that it was saved after" in text
    assert text.endswith("Not all is as it was written.\n")
    found = strict(output(capsys, "verify", "small", "--json", status=2))
    assert [f["what"] for f in found["findings"] if not f["ok"]] == [
        "step-00000006",
        "steps 4 to 6",
    ]


@pytest.mark.requirement("runs.verify")
def test_what_is_damaged_is_named_and_the_rest_is_still_looked_at(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = RunFolder(run).checkpoint(3) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    found = strict(output(capsys, "verify", "small", "--json", status=2))
    broken = [f for f in found["findings"] if not f["ok"]]
    assert [f["what"] for f in broken] == ["step-00000003", "steps 4 to 6"]
    assert broken[1]["detail"].startswith("cannot be replayed. The checkpoint file ")
    log = run / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], *lines[4:]]))
    text = output(capsys, "verify", "small", "--from", "1", status=2)
    assert "WRONG log.jsonl: line 4 is not what was written there, or one is gone" in text
    assert "ok    config.yaml: as it was written" in text


@pytest.mark.requirement("runs.verify")
def test_another_machine_is_noted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = run / "log.jsonl"
    log.write_text(log.read_text().replace('"processor": "', '"processor": "not a '))
    text = output(capsys, "verify", "small", status=2)
    assert "note: from step 1, processor: not a " in text
    assert "WRONG log.jsonl: line 1 is not" in text


@pytest.mark.requirement("runs.verify")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--from", "0"], "Steps 0 to 6 cannot be replayed: "),
        (["--from", "5", "--to", "4"], "Steps 5 to 4 cannot be replayed: "),
        (["--to", "7"], "has the steps 1 to 6."),
        (["--to", "0"], "Steps 1 to 0 cannot be replayed: "),
    ],
)
def test_steps_that_a_run_does_not_have_are_refused(
    words: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, "runs", "verify", "small", *words)
    assert told in refusal(capsys, "runs", "verify", "small", "--json", *words)


@pytest.mark.requirement("runs.verify")
def test_a_run_that_never_began_is_explained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = run / "log.jsonl"
    shutil.rmtree(run / "checkpoints")
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert "made no update" in refusal(capsys, "runs", "verify", "small")
    assert "1 line, " in output(capsys, "verify", "small", "--no-replay")
    log.write_bytes(b"")
    assert "has no beginning" in refusal(capsys, "runs", "verify", "small")
    assert "there is no line in it" in output(capsys, "verify", "small", "--no-replay", status=2)
    log.unlink()
    assert main(["runs", "verify", "small"]) == 2
    assert "There is no run 'small'" in complaint(capsys)
