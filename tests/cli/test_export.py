"""`tiny export`: a run goes in, a folder of another format comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.helpers import fingerprints, parser_refusal, refusal
from tests.interop.helpers import write_another

from tiny_transformer.cli.main import main
from tiny_transformer.interop.formats import FORMATS
from tiny_transformer.interop.safetensors_folder import load_safetensors
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("export.command")


def test_a_run_is_written_where_it_is_told_to(
    trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = fingerprints(trained_run)
    capsys.readouterr()
    words = ["export", str(trained_run), "--format", "safetensors", "--out", "a/b"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "a/b: config.json, export.json, model.safetensors, vocab.json",
        "Read back and compared: 3,762 logits, the largest difference 0.0e+00 (allowed 0.0e+00).",
    ]
    checkpoint = load_checkpoint(trained_run / "checkpoints" / "step-00000006")
    model = load_safetensors(tmp_path / "a" / "b")
    assert weights_hash(model) == weights_hash(checkpoint.build_model())
    assert CharTokenizer.load(tmp_path / "a" / "b" / "vocab.json") == checkpoint.tokenizer
    assert fingerprints(trained_run) == before


def test_an_older_checkpoint_goes_to_the_default_place(trained_run: Path, tmp_path: Path) -> None:
    older = trained_run / "checkpoints" / "step-00000003"
    assert main(["export", str(older), "--format", "safetensors"]) == 0
    model = load_safetensors(tmp_path / "exports" / "small-safetensors")
    assert weights_hash(model) == weights_hash(load_checkpoint(older).build_model())


def test_a_note_is_shown(
    trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    assert main(["export", str(trained_run), "--format", "torchscript"]) == 0
    out, err = capsys.readouterr()
    assert "Note: PyTorch has deprecated TorchScript" in out and err == ""
    assert (tmp_path / "exports" / "small-torchscript" / "model.ts").is_file()


def test_a_trained_model_passes_the_gate_of_transformers(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained_run), "--format", "huggingface"]) == 0
    assert "model.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onyx"], "'onyx' is not an export format. Did you mean 'onnx'?"),
        (["--format", "gguf"], "model.activation is 'gelu', where it takes 'gelu_tanh'"),
        (["--format", "safetensors", "--out", ""], "--out is empty"),
        (["--format", "safetensors", "--out", "."], ". exists already"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    words: list[str],
    said: str,
    trained_run: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    before = fingerprints(tmp_path)
    assert said in refusal(capsys, "export", str(trained_run), *words)
    assert fingerprints(tmp_path) == before


def test_the_second_export_does_not_replace_the_first(
    trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["export", str(trained_run), "--format", "safetensors", "--out", "mine"]
    assert main(words) == 0
    before = fingerprints(tmp_path)
    assert refusal(capsys, *words).startswith("mine exists already.")
    assert fingerprints(tmp_path) == before


def test_a_wrong_file_is_refused_and_removed(
    trained_run: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_another("safetensors", monkeypatch)
    before = fingerprints(tmp_path)
    message = refusal(capsys, "export", str(trained_run), "--format", "safetensors", "--out", "x")
    assert message.startswith("model.safetensors was not kept")
    assert fingerprints(tmp_path) == before


def test_the_format_must_be_named_and_help_lists_all(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--format" in parser_refusal(capsys, "export", str(trained_run))
    assert main(["export", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(name in shown for name in FORMATS)
