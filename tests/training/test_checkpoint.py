"""Checkpoints: what is in one, and that it comes back exactly or not at all."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from tests.training.helpers import CHECKPOINT_FILES, Faults, SavedModel, bytes_below

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import StorageError
from tiny_transformer.runtime.random_state import generator_states, restore_generator_states
from tiny_transformer.text.tokenizer import CharTokenizer
from tiny_transformer.training.checkpoint import Checkpoint, load_checkpoint
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.weights import named_weights, weights_hash


@pytest.fixture
def saved(tmp_path: Path) -> SavedModel:
    return SavedModel(tmp_path)


# Format


@pytest.mark.requirement("checkpoint.format")
def test_a_checkpoint_is_safetensors_json_and_yaml_and_nothing_else(saved: SavedModel) -> None:
    assert sorted(path.name for path in saved.path.iterdir()) == CHECKPOINT_FILES
    for name in CHECKPOINT_FILES:
        data = (saved.path / name).read_bytes()
        if name.endswith(".safetensors"):
            assert safetensors.torch.load(data) or name == "hooks.safetensors"
        elif name.endswith(".json"):
            assert isinstance(json.loads(data), dict)
        else:
            assert isinstance(yaml.safe_load(data), dict)
        # A pickle begins with \x80, a zip archive (torch.save) with PK.
        assert not data.startswith((b"\x80", b"PK"))
    assert sorted(p.name for p in saved.path.parent.iterdir()) == [saved.path.name]


@pytest.mark.requirement("checkpoint.format")
def test_nothing_is_unpickled(saved: SavedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was loaded")

    for module in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(module, refuse)
    checkpoint = load_checkpoint(saved.path)
    Optimizer(checkpoint.build_model(), saved.config.optimizer).load_state_tensors(
        checkpoint.optimizer_state
    )
    restore_generator_states(checkpoint.generators)


@pytest.mark.requirement("checkpoint.format")
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_comes_back_exactly_and_shared_ones_are_stored_once(
    tmp_path: Path, tied: bool
) -> None:
    saved = SavedModel(tmp_path, model__tie_weights=tied)
    checkpoint = load_checkpoint(saved.path)
    expected = named_weights(saved.model)
    assert checkpoint.weights.keys() == expected.keys()
    assert ("lm_head.weight" in checkpoint.weights) != tied
    for name, weight in expected.items():
        assert torch.equal(checkpoint.weights[name], weight)
        assert checkpoint.weights[name].dtype == weight.dtype
    state = saved.optimizer.state_tensors()
    assert checkpoint.optimizer_state.keys() == state.keys()
    assert len(state) == 3 * len(expected)
    assert all(torch.equal(checkpoint.optimizer_state[key], state[key]) for key in state)
    built = checkpoint.build_model()
    assert weights_hash(built) == weights_hash(saved.model)
    assert not built.training
    assert (built.lm_head.weight is built.get_parameter("embeddings.token.weight")) == tied


@pytest.mark.requirement("checkpoint.format")
def test_step_config_vocabulary_and_what_was_given_come_back(saved: SavedModel) -> None:
    checkpoint = load_checkpoint(str(saved.path))
    assert (checkpoint.path, checkpoint.step) == (saved.path, 2)
    assert checkpoint.config == saved.config
    assert checkpoint.tokenizer == CharTokenizer()
    assert checkpoint.metadata["run_id"] == "run"
    assert checkpoint.metadata["note"] == "caf\u00e9"


@pytest.mark.requirement("checkpoint.format")
def test_the_generators_come_back_where_they_were(saved: SavedModel) -> None:
    random.gauss(0, 1)
    np.random.standard_normal()
    expected = generator_states()
    path = saved.save(3)
    draws = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    restore_generator_states(load_checkpoint(path).generators)
    now = generator_states()
    assert all(torch.equal(now[name], expected[name]) for name in expected)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == draws


@pytest.mark.requirement("checkpoint.format")
def test_a_second_save_replaces_the_first(saved: SavedModel) -> None:
    saved.update()
    assert saved.save(2) == saved.path
    assert weights_hash(load_checkpoint(saved.path).build_model()) == weights_hash(saved.model)
    assert [p.name for p in saved.path.parent.iterdir()] == [saved.path.name]


@pytest.mark.requirement("checkpoint.format")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_state_of_either_optimizer_fits_into_a_new_one(tmp_path: Path, name: str) -> None:
    saved = SavedModel(tmp_path, optimizer__name=name)
    checkpoint = load_checkpoint(saved.path)
    other = Optimizer(checkpoint.build_model(), saved.config.optimizer)
    other.load_state_tensors(checkpoint.optimizer_state)
    expected = saved.optimizer.state_tensors()
    assert all(torch.equal(v, expected[k]) for k, v in other.state_tensors().items())


# The hash of the weights


@pytest.mark.requirement("e2e.weight-hashes")
def test_the_hash_of_weights_changes_with_every_bit(saved: SavedModel) -> None:
    model = saved.model
    before = weights_hash(model)
    for parameter in model.parameters():
        bits = parameter.data.view(torch.int32).view(-1)
        for bit in (0, 31):
            bits[-1] ^= -(2**31) if bit == 31 else 1
            assert weights_hash(model) != before
            bits[-1] ^= -(2**31) if bit == 31 else 1
    assert weights_hash(model) == before


# Faults


def n_calls(saved: SavedModel, step: int, patch: pytest.MonkeyPatch) -> int:
    with patch.context() as inner:
        counted = Faults(inner, 0, 0)
        saved.save(step)
    return counted.calls


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return a.step == b.step and all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights)


@pytest.mark.requirement("bad.full-disk")
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("error", [28, 5])  # ENOSPC, EIO
def test_a_fault_at_any_write_of_a_new_checkpoint_loses_nothing(
    saved: SavedModel, monkeypatch: pytest.MonkeyPatch, error: int, lasting: bool
) -> None:
    before, earlier = bytes_below(saved.folder.path), load_checkpoint(saved.path)
    total = n_calls(saved, 5, monkeypatch)
    assert total > 3 * len(CHECKPOINT_FILES)  # each file is written, synced and renamed
    for path in saved.folder.checkpoint(5).iterdir():
        path.unlink()
    saved.folder.checkpoint(5).rmdir()
    for number in range(1, total + 1):
        with monkeypatch.context() as patch:
            Faults(patch, number, error, lasting=lasting)
            with pytest.raises(StorageError) as caught:
                saved.save(5)
        assert caught.value.exit_status == 2
        assert ("disk is full" in str(caught.value)) == (error == 28)
        found = saved.folder.checkpoints()
        if lasting and found != [saved.path]:
            # The new one was whole and in its place when only the last sync failed.
            assert number == total
            assert same(load_checkpoint(found[-1]), load_checkpoint(saved.save(5)))
        else:
            assert found == [saved.path], number
            assert bytes_below(saved.folder.path) == before, number
        assert same(load_checkpoint(saved.path), earlier)


@pytest.mark.requirement("bad.full-disk")
def test_a_fault_while_a_checkpoint_is_replaced_leaves_the_old_one(
    saved: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes_below(saved.folder.path)
    saved.update()
    total = n_calls(SavedModel(saved.folder.path / "elsewhere"), 2, monkeypatch)
    before = {k: v for k, v in before.items() if not k.startswith("elsewhere")}
    for number in range(1, total + 1):
        with monkeypatch.context() as patch:
            Faults(patch, number, 28)
            with pytest.raises(StorageError):
                saved.save(2)
        left = bytes_below(saved.folder.path / "checkpoints")
        assert {f"checkpoints/{name}": data for name, data in left.items()} == before, number


@pytest.mark.requirement("bad.unwritable")
@pytest.mark.parametrize("error", [13, 30])  # EACCES, EROFS
def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(
    saved: SavedModel, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    before = bytes_below(saved.folder.path)
    Faults(monkeypatch, 1, error, lasting=True)
    with pytest.raises(StorageError, match=r"No permission.*step-00000003.*--runs-dir"):
        saved.save(3)
    assert bytes_below(saved.folder.path) == before


@pytest.mark.requirement("bad.full-disk")
def test_a_save_that_is_killed_leaves_nothing_that_is_taken_for_a_checkpoint(
    saved: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where even cleaning up does not run: stop at each rename and look at the disk."""
    seen: list[list[Path]] = []

    def look(source: Path, target: Path) -> None:
        seen.append(saved.folder.checkpoints())
        source.replace(target)

    monkeypatch.setattr(files, "os_replace", look)
    path = saved.save(7)
    assert len(seen) == len(CHECKPOINT_FILES) + 1
    assert all(found == [saved.path] for found in seen)
    assert saved.folder.checkpoints() == [saved.path, path]
