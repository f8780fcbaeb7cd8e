"""One call tells the log, the sample files and the terminal alike."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.recorder import RunRecorder
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.tracking.trackers import Trackers


@pytest.mark.requirement("record.log")
def test_each_event_reaches_the_log_and_the_terminal(tmp_path: Path) -> None:
    shown = io.StringIO()
    folder = RunFolder.create(tmp_path, "mine")
    reporter = ConsoleReporter(Console(file=shown, force_terminal=False, width=200))
    record = RunRecorder(folder, {"run_id": "mine"}, reporter, Trackers(reporter.message))
    record.progress(0, 2)
    metrics = {"loss": 2.0, "tokens_per_second": 10.0}
    record.update(1, metrics, logged=False)
    record.update(2, metrics, logged=True)
    record.evaluation(2, {"val_loss": 1.5, "val_perplexity": 4.5, "bits_per_char": 2.2})
    record.sample(2, "p\n", "text")
    record.event("end", 2, train_seconds=1.0)
    record.close()
    lines = read_log(folder.log)
    assert [(line["event"], line["step"]) for line in lines] == [
        ("train", 2),
        ("eval", 2),
        ("sample", 2),
        ("end", 2),
    ]
    assert all(line["run_id"] == "mine" for line in lines)
    assert (lines[0]["loss"], lines[1]["val_loss"], lines[3]["train_seconds"]) == (2.0, 1.5, 1.0)
    assert (lines[2]["prompt"], lines[2]["text"]) == ("p\n", "text")
    assert folder.sample(2).read_bytes() == b"p\ntext"
    words = shown.getvalue()
    assert "step 1/2" in words
    assert "step 2/2" in words
    assert "validation loss 1.5000" in words
    assert "sample: text" in words
    assert "end" not in words
