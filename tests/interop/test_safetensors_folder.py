"""Weights and settings in a folder, and back to the very same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.interop.helpers import exportable
from tests.model.architectures import CHOICES, token_ids

from tiny_transformer.interop.base import ExportError
from tiny_transformer.interop.export import export_model
from tiny_transformer.interop.safetensors_folder import load_safetensors
from tiny_transformer.runtime.errors import CheckpointError, ConfigError
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.weights import weights_hash

pytestmark = pytest.mark.requirement("export.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export_model(exportable(), CharTokenizer(), "safetensors", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("choice", list(CHOICES))
def test_every_architecture_comes_back_bit_for_bit(choice: str, tmp_path: Path) -> None:
    model, tokenizer = exportable(**CHOICES[choice]), CharTokenizer(transliterate=True)
    parity = export_model(model, tokenizer, "safetensors", tmp_path / "out")
    assert parity.largest_difference == 0.0
    back = load_safetensors(tmp_path / "out")
    assert back.config == model.config and not back.training
    assert weights_hash(back) == weights_hash(model)
    assert torch.equal(back(token_ids()), model(token_ids()))
    assert CharTokenizer.load(tmp_path / "out" / "vocab.json") == tokenizer


def test_exactly_these_files_are_written(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "vocab.json", "export.json"}


def test_a_shared_weight_is_stored_once(folder: Path) -> None:
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert "embeddings.token.weight" in stored and "lm_head.weight" not in stored


def test_damage_is_refused_by_name(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ExportError, match=r"model.safetensors is damaged"):
        load_safetensors(folder)
    file.unlink()
    with pytest.raises(ExportError, match=r"model.safetensors cannot be read"):
        load_safetensors(folder)


def test_weights_of_another_model_are_refused_before_it_is_built(folder: Path) -> None:
    file = folder / "config.json"
    record = json.loads(file.read_text())
    record["model"]["context_length"] = 10**12
    file.write_text(json.dumps(record))
    with pytest.raises(ExportError, match=r"asks for 32,000,000,0\S+ parameters: it has"):
        load_safetensors(folder)


def test_a_renamed_weight_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    stored = safetensors.torch.load_file(file)
    stored["stranger"] = stored.pop("final_norm.bias")
    safetensors.torch.save_file(stored, file)
    with pytest.raises(CheckpointError, match=r"it lacks final_norm.bias"):
        load_safetensors(folder)


def test_another_programs_config_is_refused(folder: Path) -> None:
    file = folder / "config.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ExportError, match=r"config.json does not describe a model of this"):
        load_safetensors(folder)
    file.write_text(json.dumps(record | {"version": 2}))
    with pytest.raises(ExportError, match=r"in version 2; expected"):
        load_safetensors(folder)
    record["model"]["n_layer"] = record["model"].pop("n_layers")
    file.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="n_layers"):
        load_safetensors(folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"config.json"):
        load_safetensors(folder)
