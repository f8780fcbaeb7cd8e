"""The run log: whole lines, valid JSON, and nothing lost."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import RunError, StorageError
from tiny_transformer.tracking.run_log import (
    RunLog,
    bits_of,
    check_chain,
    current_lines,
    float_of,
    metric_by_step,
    read_log,
)

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


# The chain


def short_log(path: Path) -> list[bytes]:
    """Write four lines; return them with their line breaks."""
    texts = ("a", "caf\u00e9 {}", 'say "b"}', "")
    write(path, *(("sample", i, {"text": text, "x": {"y": 0.5}}) for i, text in enumerate(texts)))
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.requirement("record.chain")
def test_a_log_as_it_was_written_is_one_whole_chain(tmp_path: Path) -> None:
    lines = short_log(tmp_path / "log")
    report = check_chain(tmp_path / "log")
    assert (report.lines, report.torn, report.broken) == (4, [], None)
    assert {json.loads(line)["chain"] for line in lines} < report.chains
    log = RunLog(tmp_path / "log", IDENTITY)
    assert log.chain == json.loads(lines[-1])["chain"]
    log.close()


@pytest.mark.requirement("record.chain")
@pytest.mark.parametrize("new", [b"\n", b"x", b'"', b"}"])
def test_every_byte_that_is_changed_is_found_at_its_line(tmp_path: Path, new: bytes) -> None:
    path = tmp_path / "log"
    whole = b"".join(short_log(path))
    for place in range(len(whole)):
        if whole[place : place + 1] == new:
            continue
        path.write_bytes(whole[:place] + new + whole[place + 1 :])
        assert check_chain(path).broken == whole.count(b"\n", 0, place) + 1, place


@pytest.mark.requirement("record.chain")
def test_every_byte_that_is_taken_out_or_put_in_is_found_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = b"".join(short_log(path))
    for place in range(len(whole) - 1):  # without its last line break, a line is the same line
        number = whole.count(b"\n", 0, place) + 1
        path.write_bytes(whole[:place] + whole[place + 1 :])
        assert check_chain(path).broken == number, place
        path.write_bytes(whole[:place] + b"\n" + whole[place:])
        empty_line_after = whole[place : place + 1] == b"\n"
        assert check_chain(path).broken == number + empty_line_after, place


@pytest.mark.requirement("record.chain")
def test_lines_dropped_swapped_doubled_or_put_in_are_found_at_their_place(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = short_log(path)
    forged = [b"hello\n", b"{}\n", b"\n", b'{"step": 1, "chain": "' + b"0" * 64 + b'"}\n']

    def broken(changed: list[bytes]) -> int | None:
        path.write_bytes(b"".join(changed))
        return check_chain(path).broken

    for i in range(4):
        without = lines[:i] + lines[i + 1 :]
        assert broken(without) == (i + 1 if i < 3 else None)  # the end leaves no trace here
        assert broken([*lines[: i + 1], *lines[i:]]) == i + 2
        for line in forged:
            assert broken([*lines[:i], line, *lines[i:]]) == i + 1
            assert broken([*lines[:i], line, *lines[i + 1 :]]) == i + 1
        for j in range(i):
            swapped = list(lines)
            swapped[i], swapped[j] = lines[j], lines[i]
            assert broken(swapped) == j + 1
    for line in forged:
        assert broken([*lines, line]) == 5


@pytest.mark.requirement("record.chain")
def test_a_line_that_a_crash_cut_short_is_passed_over_and_vouched_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = short_log(path)
    whole = b"".join(lines)
    for length in [*range(len(whole) - len(lines[3]) + 1, len(whole) - 9, 9), *range(-9, -1)]:
        path.write_bytes(whole[:length])
        assert (check_chain(path).torn, check_chain(path).broken) == ([4], None), length
        RunLog(path, IDENTITY).close()  # a process that dies before its first line
        write(path, ("train", 4, {}), ("train", 5, {}))
        report = check_chain(path)
        assert (report.lines, report.torn, report.broken) == (5, [4], None), length
    path.write_bytes(whole[:-100])
    write(path, ("train", 4, {}), ("train", 5, {}))
    continued = path.read_bytes().splitlines(keepends=True)
    for changed, number in (
        ([*continued[:3], *continued[4:]], 4),  # the unfinished line is taken away
        ([*continued[:3], b"{}\n", *continued[4:]], 4),
        ([*continued[:4], continued[4].replace(b'"train"', b'"trawn"'), continued[5]], 5),
        ([*continued[:4], continued[5]], 5),
    ):
        path.write_bytes(b"".join(changed))
        assert check_chain(path).broken == number
    path.write_bytes(whole[: len(whole) - 5])
    for _ in range(2):  # a second crash in the first line of the process that went on
        write(path, ("train", 4, {}))
        path.write_bytes(path.read_bytes()[:-9])
    write(path, ("train", 5, {}))
    assert (check_chain(path).torn, check_chain(path).broken) == ([4, 5, 6], None)


@pytest.mark.requirement("record.chain")
def test_going_on_with_a_long_log_takes_no_more_memory_than_with_a_short_one(
    tmp_path: Path,
) -> None:
    path, peaks = tmp_path / "log", []
    for number in (500, 20_000):
        log = RunLog(path, IDENTITY)
        for step in range(number):
            log.write("train", step, loss=1.5)
        log.close()
        tracemalloc.start()
        log = RunLog(path, IDENTITY)
        log.write("train", 0)
        log.close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 3_000_000
    assert max(peaks) < 300_000


@pytest.mark.requirement("record.loss-bits")
@pytest.mark.parametrize("value", [0.1, -0.0, 5e-324, math.inf, math.nan, 1 / 3])
def test_bits_are_the_number_to_the_last_one(value: float) -> None:
    assert bits_of(float_of(bits_of(value))) == bits_of(value)
    assert float_of(bits_of(value)) == pytest.approx(value, rel=0, abs=0, nan_ok=True)
    assert (bits_of(1.0), bits_of(-2.0)) == ("3ff0" + "0" * 12, "c000" + "0" * 12)


# What counts


def test_what_a_resume_makes_anew_no_longer_counts() -> None:
    def steps(*lines: tuple[str, int]) -> list[int]:
        log = [{"event": e, "step": s, "n": n} for n, (e, s) in enumerate(lines)]
        return [line["n"] for line in current_lines(log)]

    train = [("start", 0), *(("train", s) for s in range(1, 5))]
    assert steps(*train, ("resume", 4), ("train", 5)) == [0, 1, 2, 3, 4, 5, 6]
    assert steps(*train, ("resume", 2), ("train", 3)) == [0, 1, 2, 5, 6]
    assert steps(*train, ("resume", 4), ("train", 5), ("resume", 1)) == [0, 1, 7]
    assert steps(*train, ("resume", 2), ("resume", 2), ("train", 3)) == [0, 1, 2, 5, 6, 7]


def test_lines_of_another_program_are_passed_over() -> None:
    lines = [
        {"event": "train", "step": 1, "loss": "low"},
        {"event": "train", "step": 2, "loss": None},
        {"event": "train", "step": 3, "loss": [1.0]},
        {"event": "train", "step": "4", "loss": 1.0},
        {"event": "train", "loss": 1.0},
        {"event": "train", "step": 5, "loss": 10**400},
        {"event": "resume", "step": None},
        {"event": "train", "step": 6, "loss": 2},
    ]
    assert metric_by_step(lines, "train", "loss") == {6: 2.0}
    assert [line["step"] for line in current_lines(lines)] == [1, 2, 3, 5, 6]
