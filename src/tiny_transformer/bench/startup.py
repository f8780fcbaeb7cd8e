"""Start-up: how long `tiny --help` takes, and `tiny train` until its first update is made."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tiny_transformer.bench.measure import Budget, Rate
from tiny_transformer.bench.report import Row
from tiny_transformer.runtime.errors import TinyError

_TINY = [sys.executable, "-m", "tiny_transformer"]
_TRAIN = ["train", "--config", "base", "--training.max-steps", "1", "--training.eval-every", "0"]


def startup_rows(budget: Budget, *, corpus: str = "shakespeare") -> list[Row]:
    """Return the seconds of both, in processes of their own; the corpus is prepared before.

    Raises:
        TinyError: the command failed.
    """
    _run(["data", "prepare", corpus])
    help_seconds = [_run(["--help"]) for _ in range(budget.rounds)]
    first_step = [_until_first_update(corpus) for _ in range(budget.rounds)]
    return [
        Row("start-up", "tiny --help", "s", Rate(tuple(help_seconds))),
        Row("start-up", "tiny train, first update", "s", Rate(tuple(first_step))),
    ]


def _run(words: list[str]) -> float:
    """Run a command to its end; return the seconds it took."""
    began = time.perf_counter()
    done = subprocess.run([*_TINY, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TinyError(f"tiny {' '.join(words)} failed: {done.stderr.strip()}")
    return time.perf_counter() - began


def _until_first_update(corpus: str) -> float:
    """Start a training run of one step; return the seconds until the log has that step."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*_TRAIN, "--data.corpus", corpus, "--runs-dir", folder, "--run-name", "run"]
        log = Path(folder) / "run" / "log.jsonl"
        began = time.perf_counter()
        process = subprocess.Popen(
            [*_TINY, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            while process.poll() is None:
                if log.exists() and b'"event": "train"' in log.read_bytes():
                    return time.perf_counter() - began
                time.sleep(0.01)
            message = process.stderr.read().decode() if process.stderr else ""
            raise TinyError(f"tiny train ended before its first update: {message.strip()}")
        finally:
            process.kill()
            process.communicate()
