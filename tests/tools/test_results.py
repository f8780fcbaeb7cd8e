from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import results


def write_run(folder: Path, name: str) -> Path:
    run = folder / name
    run.mkdir()
    lines = [{"step": 0, "event": "start"}]
    lines += [{"step": step, "event": "train", "loss": 4 / step} for step in (1, 2, 3)]
    lines += [{"step": 3, "event": "eval", "val_loss": loss} for loss in (9.0, 1.5)]
    text = "".join(json.dumps({"run_id": name, **line}) + "\n" for line in lines)
    (run / "log.jsonl").write_text(text)
    return run


def test_losses_are_read_by_step_and_later_lines_count(tmp_path: Path) -> None:
    run = write_run(tmp_path, "first")
    expected = "first", {"train": {1: 4.0, 2: 2.0, 3: 4 / 3}, "val": {3: 1.5}}
    assert results.read_losses(run) == expected
    assert results.read_losses(run / "log.jsonl") == expected


def test_the_same_logs_give_the_same_figure_without_a_path(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, "first"), write_run(tmp_path, "second")
    texts = []
    for name in ("a.svg", "b.svg"):
        out = tmp_path / name
        assert results.main([str(first), f"named={second}", "--out", str(out)]) == 0
        texts.append(out.read_text())
    assert texts[0] == texts[1]
    assert "first: training" in texts[0]
    assert "named: validation, at the end 1.500" in texts[0]
    assert str(tmp_path) not in texts[0]


def test_a_run_without_a_log_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert results.main([str(empty), "--out", str(tmp_path / "a.svg")]) == 2
    (empty / "log.jsonl").write_text("")
    assert results.main([str(empty), "--out", str(tmp_path / "a.svg")]) == 2
    said = capsys.readouterr().err
    assert "cannot be read" in said
    assert "is empty" in said
