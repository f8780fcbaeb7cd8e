"""What tests of the command line share: a small run's flags, and how a refusal looks."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_transformer.cli.main import main

SMALL = [
    *("--data.corpus", "simple", "--training.device", "cpu", "--training.precision", "float32"),
    *("--model.n-layers", "1", "--model.d-model", "16", "--model.n-heads", "2"),
    *("--model.context-length", "16", "--training.max-steps", "6", "--training.batch-size", "4"),
    *("--training.eval-every", "0", "--training.checkpoint-every", "3"),
    *("--training.eval-batch-size", "64", "--sampling.max-new-tokens", "8"),
    *("--optimizer.learning-rate", "0.01"),
]
"""Flags of a run of a fraction of a second."""


def fingerprints(folder: Path) -> dict[str, str]:
    """Return what lies below a folder: files with their SHA-256, folders with a slash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "/"
        for path in sorted(folder.rglob("*"))
    }


def refusal(capsys: pytest.CaptureFixture[str], *words: str, begun: bool = False) -> str:
    """Run a command that is to be refused; return its one message.

    Args:
        capsys: reads what the command writes.
        words: the command line after `tiny`.
        begun: the command may have shown progress before it failed.
    """
    capsys.readouterr()
    assert main(list(words)) == 2
    return complaint(capsys, begun=begun)


def complaint(capsys: pytest.CaptureFixture[str], *, begun: bool = False) -> str:
    """Return the one message of a command that was refused (see `refusal`)."""
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    lines = err.strip().splitlines()
    complaints = [line for line in lines if line.startswith("tiny: ")]
    assert len(complaints) == 1, err
    assert lines[-1] == complaints[0]
    if not begun:
        assert out == ""
        assert lines == complaints
    return complaints[0].removeprefix("tiny: ")


def parser_refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command whose flags are wrong; return the parser's message as one line."""
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").replace("─", " ").split())


def start(words: list[str], environment: dict[str, str], **options: str | bytes) -> tuple:
    """Run `python -m tiny_transformer` in a process; return status, output and complaints."""
    done = subprocess.run(
        [sys.executable, "-m", "tiny_transformer", *words],
        capture_output=True,
        env=environment,
        timeout=120,
        **options,  # pyright: ignore[reportArgumentType, reportCallIssue]
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()
