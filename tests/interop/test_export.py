"""An export appears whole, agrees with the model, or does not appear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.interop.helpers import GPT2, exportable, with_one_weight_changed, write_another

from tiny_transformer.interop import export
from tiny_transformer.interop.base import INSTALL, ExportError
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.formats import FORMATS
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import StorageError
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.weights import weights_hash

TOKENIZER = CharTokenizer()


@pytest.mark.requirement("export.parity")
@pytest.mark.parametrize(
    "format_name",
    [
        name if name in ("safetensors", "huggingface", "gguf")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in FORMATS
    ],
)  # fmt: skip
def test_one_changed_weight_is_refused_and_nothing_is_left(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_another(format_name, monkeypatch)
    with pytest.raises(ExportError, match=r"was not kept: .* first part at position 0 of row 0"):
        export_model(exportable(**GPT2), TOKENIZER, format_name, tmp_path / "out")
    assert list(tmp_path.glob("**/*out*")) == []


@pytest.mark.requirement("export.parity")
def test_the_record_says_what_was_compared(tmp_path: Path) -> None:
    model = exportable()
    parity = export_model(model, TOKENIZER, "safetensors", tmp_path / "a" / "out", name="mine")
    record = json.loads((tmp_path / "a" / "out" / "export.json").read_text())
    assert record["format"] == "safetensors" and record["model"] == "mine"
    assert record["weights"] == weights_hash(model)
    assert record["weights"] != weights_hash(with_one_weight_changed(model))
    assert record["parity"] == {
        "largest_difference": parity.largest_difference, "allowed": 0.0, "logits": parity.logits,
    }  # fmt: skip


@pytest.mark.requirement("export.refused")
@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_not_replaced(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError, match=r"out exists already. Remove it, or choose another"):
        export_model(exportable(), TOKENIZER, "safetensors", out)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["out"]


@pytest.mark.requirement("export.refused")
@pytest.mark.parametrize(("name", "said"), [("onyx", "'onnx'?"), ("pdf", "Valid names: ")])
def test_an_unknown_format_is_answered_with_all(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as refused:
        export_model(exportable(), TOKENIZER, name, tmp_path / "out")
    assert f"{name!r} is not an export format." in str(refused.value) and said in str(refused.value)
    assert all(known in str(refused.value) for known in FORMATS)


@pytest.mark.requirement("export.refused")
@pytest.mark.parametrize("format_name", ["huggingface", "onnx", "gguf"])
def test_a_missing_package_is_named_with_the_one_command(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError) as refused:
        export_model(exportable(**GPT2), TOKENIZER, format_name, tmp_path / "out")
    assert INSTALL == "pip install 'tiny-transformer[export]'"
    assert INSTALL in str(refused.value)
    for package in FORMATS[format_name].packages:
        assert package in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.requirement("export.refused")
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "os_write", full)
    with pytest.raises(StorageError, match="The disk is full"):
        export_model(exportable(), TOKENIZER, "safetensors", tmp_path / "out")
    assert list(tmp_path.glob("**/*out*")) == []


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = exportable(dropout=0.25).double().train()
    before = weights_hash(model)
    export_model(model, TOKENIZER, "safetensors", tmp_path / "out")
    assert model.training and weights_hash(model) == before
    assert model.lm_head.weight.dtype == torch.float64


def test_the_public_function_is_the_one_that_the_command_calls() -> None:
    from tiny_transformer.cli import export as command

    assert command.export_model is export.export_model
