"""What a log says of a run: how it ended, what it reached, and where runs differ."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny_transformer.runtime.errors import RunError, StorageError
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import bits_of
from tiny_transformer.tracking.run_summary import (
    RunSummary,
    config_differences,
    find_folder,
    first_difference,
    run_folders,
    summarize,
)

START = {"event": "start", "step": 0, "time": "2026-01-31T00:00:00+00:00", "max_steps": 4}


def train(step: int, loss: Any = 2.0) -> dict[str, Any]:
    return {"event": "train", "step": step, "loss": loss, "tokens_per_second": 10.0 * step}


def evaluation(step: int, loss: Any) -> dict[str, Any]:
    return {"event": "eval", "step": step, "val_loss": loss}


def end(event: str, step: int) -> dict[str, Any]:
    return {"event": event, "step": step}


def made(path: Path, *lines: Any) -> RunFolder:
    path.mkdir(parents=True, exist_ok=True)
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunFolder(path)


def summary(path: Path, *lines: Any) -> RunSummary:
    return summarize(made(path / "run", *lines))


@pytest.mark.requirement("runs.list")
@pytest.mark.parametrize(
    ("lines", "status", "step"),
    [
        ([START, train(1), train(4), end("end", 4)], "complete", 4),
        ([START, train(1), end("end", 2)], "paused", 2),
        ([START, train(1), end("interrupted", 1)], "interrupted", 1),
        ([START, train(1), end("diverged", 2)], "diverged", 1),
        ([START, train(1), end("hook", 2), end("diverged", 2)], "diverged", 1),
        ([START, train(1), end("failed", 1)], "failed", 1),
        ([START, train(1), train(2)], "stopped", 2),
        ([START], "stopped", 0),
        ([], "stopped", 0),
        ([START, train(1), end("diverged", 2), end("resume", 1), train(2)], "stopped", 2),
        ([START, train(3), end("interrupted", 3), end("resume", 2)], "stopped", 2),
    ],
)
def test_the_status_is_how_the_run_ended(
    tmp_path: Path, lines: list[Any], status: str, step: int
) -> None:
    found = summary(tmp_path, *lines)
    assert (found.status, found.step) == (status, step)


@pytest.mark.requirement("runs.list")
def test_a_run_is_training_while_a_process_holds_it_and_stopped_when_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "run", START, train(1))
    code = (
        "import sys, time; from pathlib import Path;"
        "from tiny_transformer.tracking.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert summarize(folder).status == "training"
        finally:
            process.kill()
    assert summarize(folder).status == "stopped"

    def refuse(self: RunFolder) -> bool:
        raise StorageError("read-only")

    monkeypatch.setattr(RunFolder, "is_locked", refuse)
    assert summarize(folder).status == "stopped"


@pytest.mark.requirement("runs.list")
def test_numbers_are_those_of_the_lines_that_count(tmp_path: Path) -> None:
    lines = [train(s, 5.0 - s / 10) for s in range(1, 21)]
    found = summary(
        tmp_path,
        {**START, "hooks": [{"name": "noise"}, {"name": "sign", "enabled": False}], "seed": 7},
        *(evaluation(s, v) for s, v in ((5, 2.0), (10, 1.0), (15, "nan"), (18, 0.1))),
        *lines,
        {**START, "event": "resume", "step": 17},
        evaluation(20, 1.5),
    )
    assert found.train_loss == pytest.approx(3.3)  # of the last tenth, to step 17
    assert (found.val_loss, found.best_val_loss, found.best_step) == (1.5, 1.0, 10)
    assert found.tokens_per_second == 90.0
    assert (found.step, found.resumed, found.seed) == (20, 1, None)
    worst = summary(tmp_path, START, evaluation(1, "nan"), evaluation(2, "inf"))
    assert (worst.best_val_loss, worst.best_step) == (None, None)
    assert worst.val_loss == math.inf
    assert summary(tmp_path, {**START, "seed": 7}).seed == 7


@pytest.mark.requirement("runs.list")
@pytest.mark.parametrize(
    "line",
    [
        {**START, "max_steps": "many", "hooks": "none", "time": 5, "seed": [1], "corpus": {}},
        {**START, "hooks": [1, None, {"label": "x"}], "n_parameters": "x", "git_dirty": "no"},
        {"event": ["train"], "step": 1, "loss": {}},
        {"event": "train", "step": True, "loss": None},
        {"step": 1},
        [],
    ],
)
def test_a_log_of_another_program_is_read_as_far_as_it_goes(tmp_path: Path, line: Any) -> None:
    found = summary(tmp_path, line, train(2, "low"), train(3, 1.5))
    assert (found.step, found.train_loss) == (3, 1.5)


def test_runs_are_found_by_folder_and_id_and_the_nearest_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(RunError, match=r"Train one first: tiny train"):
        find_folder("first", runs)
    for name in ("second", "first"):
        made(runs / name, START)
    assert [folder.run_id for folder in run_folders(runs)] == ["first", "second"]
    assert find_folder("first", runs).path == find_folder(runs / "first").path
    for given in ("frist", f"{runs}/frist"):
        with pytest.raises(RunError, match=rf"'{re.escape(given)}'.*Did you mean 'first'"):
            find_folder(given, runs)
    with pytest.raises(RunError, match="There is no run"):
        find_folder("x" * 5000, runs)
    for number in range(10):
        made(runs / f"more{number}", START)
    with pytest.raises(RunError, match=r"runs/\. tiny runs list shows"):
        find_folder("zzzz", runs)


@pytest.mark.requirement("runs.compare")
def test_settings_that_differ_are_exactly_those() -> None:
    one = {"run_name": "a", "runs_dir": "x", "model": {"d": 1, "e": None}, "hooks": []}
    two = {"run_name": "b", "runs_dir": "y", "model": {"d": 1.5, "f": 2}, "hooks": []}
    stop = {"training": {"stop_at": 5}}
    assert config_differences({"a": {**one, **stop}, "b": {**two, "training": {}}}) == {
        "model.d": {"a": 1, "b": 1.5},
        "model.f": {"a": None, "b": 2},
    }
    assert config_differences({"a": one, "b": one}) == {}


@pytest.mark.requirement("runs.compare")
def test_losses_are_compared_to_the_last_bit() -> None:
    def log(*losses: float, val: float = 1.0) -> list[dict[str, Any]]:
        lines = [{**train(s, x), "loss_bits": bits_of(x)} for s, x in enumerate(losses, start=1)]
        return [*lines, {**evaluation(2, val), "val_loss_bits": bits_of(val)}]

    near = math.nextafter(0.3, 1)
    assert first_difference([log(0.1, 0.2, 0.3), log(0.1, 0.2, 0.3)]) is None
    assert first_difference([log(0.1, 0.2, 0.3), log(0.1, 0.2)]) is None
    assert first_difference([log(0.1, 0.2, 0.3), log(0.1, 0.2, near)]) == 3
    assert first_difference([log(0.1), log(0.1, 0.2, 0.3), log(0.1, 0.5, near)]) == 2
    assert first_difference([log(0.1, 0.2, 0.3), log(0.1, 0.2, near, val=2.0)]) == 2
