"""`tiny eval`: what a run's model costs in nats, on its own corpus or another."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.cli.helpers import fingerprints, refusal

from tiny_transformer.cli.main import main
from tiny_transformer.tracking.run_log import read_log


def evaluate(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> dict[str, float]:
    """Return the one JSON object that the command prints."""
    capsys.readouterr()
    assert main(["eval", str(run), "--json", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_the_numbers_are_those_of_the_end_of_training(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--device", "cpu", "--precision", "float32", "--batch-size", "64")
    metrics = evaluate(capsys, trained_run, *words)
    logged = [line for line in read_log(trained_run / "log.jsonl") if line["event"] == "eval"][-1]
    for name in ("val_loss", "val_perplexity", "bits_per_char", "n_targets"):
        assert metrics[name] == logged[name]
    assert (metrics["step"], metrics["corpus"]) == (6, "simple")
    assert metrics["val_perplexity"] == pytest.approx(math.exp(metrics["val_loss"]))
    assert metrics["bits_per_char"] == pytest.approx(metrics["val_loss"] / math.log(2))


def test_the_table_shows_the_same_numbers(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluate(capsys, trained_run)
    assert main(["eval", str(trained_run)]) == 0
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert table["val_loss"] == f"{metrics['val_loss']:.4f}"
    assert table["n_targets"] == str(metrics["n_targets"])
    assert table.keys() == metrics.keys()


def test_the_batch_size_does_not_change_what_is_counted(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = (evaluate(capsys, trained_run, "--batch-size", n) for n in ("7", "500"))
    assert one["n_targets"] == many["n_targets"]
    assert one["val_loss"] == pytest.approx(many["val_loss"], abs=1e-5)


def test_an_older_checkpoint_is_evaluated_by_its_path(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = evaluate(capsys, trained_run / "checkpoints" / "step-00000003")
    assert older["step"] == 3
    assert older["val_loss"] > evaluate(capsys, trained_run)["val_loss"]


def test_another_corpus_is_split_like_the_runs_own(
    trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("To be, or not to be.\n" * 100)
    metrics = evaluate(capsys, trained_run, "--corpus", "other.txt")
    assert (metrics["corpus"], metrics["n_targets"]) == ("other.txt", 2100 * 0.05 - 1)


@pytest.mark.requirement("bad.utf8")
@pytest.mark.parametrize("flag", ["--errors", "--data.errors"])
def test_bytes_that_are_not_utf8_are_refused_or_read_as_unknown(
    flag: str, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"line 1\nab\xff\n" * 200)
    before = fingerprints(run)
    message = refusal(capsys, "eval", str(run), "--corpus", "bad.txt")
    assert "bad.txt" in message and "at byte 9, line 2" in message
    assert "errors replace" in message
    metrics = evaluate(capsys, run, "--corpus", "bad.txt", flag, "replace")
    assert metrics["n_targets"] == 11 * 200 * 0.05 - 1
    assert fingerprints(run) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--corpus", "missing"], "There is no file or folder 'missing'"),
        (["--corpus", "short.txt"], "shorter than one window"),
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1."),
        (["--batch-size", "-2"], "--batch-size is -2"),
        (["--precision", "float16"], "'float16'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    words: list[str],
    told: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "short.txt").write_text("To be")
    before = fingerprints(run)
    assert told in refusal(capsys, "eval", str(run), *words)
    assert fingerprints(run) == before
