"""The run log: whole lines, valid JSON, and nothing lost."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import RunError, StorageError
from tiny_transformer.tracking.run_log import RunLog, metric_by_step, read_log

IDENTITY = {"run_id": "r", "config_hash": "h", "git_commit": None}


def write(path: Path, *events: tuple[str, int, dict[str, Any]]) -> None:
    log = RunLog(path, IDENTITY)
    for event, step, fields in events:
        log.write(event, step, **fields)
    log.close()


@pytest.mark.requirement("record.log")
def test_every_line_says_which_run_step_and_event_it_belongs_to(tmp_path: Path) -> None:
    write(tmp_path / "log", ("train", 1, {"loss": 2.5}), ("end", 2, {}))
    lines = read_log(tmp_path / "log")
    assert all(len(line.pop("chain")) == 64 for line in lines)
    assert lines == [
        {**IDENTITY, "step": 1, "event": "train", "loss": 2.5},
        {**IDENTITY, "step": 2, "event": "end"},
    ]


@pytest.mark.requirement("record.log")
def test_numbers_are_written_exactly(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2**60]
    write(tmp_path / "log", *(("train", i, {"loss": v}) for i, v in enumerate(values)))
    assert [line["loss"] for line in read_log(tmp_path / "log")] == values


@pytest.mark.requirement("record.log")
def test_lines_are_strict_json_also_where_a_number_is_not_finite(tmp_path: Path) -> None:
    fields = {"loss": math.nan, "norm": [1.0, math.inf], "more": {"x": -math.inf}}
    write(tmp_path / "log", ("train", 1, fields))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "log").read_text(), parse_constant=refuse)
    assert line["loss"] == "nan"
    assert line["norm"] == [1.0, "inf"]
    assert line["more"] == {"x": "-inf"}
    assert math.isnan(metric_by_step([line], "train", "loss")[1])


@pytest.mark.parametrize("text", ["a\nb", "\u2028 \u2029 \x85 \x0b \x0c \x1c", "\ufffd", "\udc80"])
def test_any_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    write(tmp_path / "log", ("sample", 1, {"text": text}), ("end", 2, {}))
    assert [line.get("text") for line in read_log(tmp_path / "log")] == [text, None]


def test_a_log_is_continued_and_not_begun_again(tmp_path: Path) -> None:
    write(tmp_path / "log", ("train", 1, {}))
    write(tmp_path / "log", ("train", 2, {}))
    assert [line["step"] for line in read_log(tmp_path / "log")] == [1, 2]
    assert "\n\n" not in (tmp_path / "log").read_text()


def test_a_line_cut_short_anywhere_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, ("train", 1, {"text": "caf\u00e9"}), ("train", 2, {"text": "caf\u00e9"}))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        write(path, ("train", 3, {}))
        steps = [line["step"] for line in read_log(path)]
        # With its last brace the line is whole, even if its line break is missing.
        assert steps == ([1, 2, 3] if length == len(whole) - 1 else [1, 3]), length


def test_what_is_not_a_line_of_a_log_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'5\n"x"\n[]\n\xff\n\n{"step": 1, "event": "train", "loss": 2}\n')
    assert [line["step"] for line in read_log(path)] == [1]


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing\.jsonl"):
        read_log(tmp_path / "nothing.jsonl")


def test_of_two_lines_for_a_step_the_later_counts_and_steps_are_in_order() -> None:
    lines = [
        {"event": "train", "step": 3, "loss": 3.0},
        {"event": "train", "step": 2, "loss": 9.0},
        {"event": "train", "step": 2, "loss": 2.0},
        {"event": "eval", "step": 1, "loss": 7.0},
        {"event": "train", "step": 1, "lr": 7.0},
    ]
    assert list(metric_by_step(lines, "train", "loss").items()) == [(2, 2.0), (3, 3.0)]


@pytest.mark.requirement("bad.full-disk")
def test_a_line_that_does_not_fit_on_the_disk_leaves_the_earlier_ones_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    log = RunLog(path, IDENTITY)
    log.write("train", 1)
    before = path.read_bytes()

    def write_a_little(descriptor: int, data: memoryview) -> int:
        if len(data) <= 10:
            raise OSError(28, "No space left on device")
        return os.write(descriptor, data[: len(data) - 10])

    monkeypatch.setattr(files, "os_write", write_a_little)
    with pytest.raises(StorageError, match=r"disk is full.*log"):
        log.write("train", 2)
    monkeypatch.undo()
    assert path.read_bytes() == before
    log.write("train", 3)
    log.close()
    assert [line["step"] for line in read_log(path)] == [1, 3]


@pytest.mark.requirement("bad.unwritable")
def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(StorageError, match="log"):
        RunLog(tmp_path / "log", IDENTITY)
