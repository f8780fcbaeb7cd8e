"""A checkpoint that is truncated, changed or not one at all is refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.helpers import CHECKPOINT_FILES, SavedModel, tiny_config

from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.checkpoint_files import seal
from tiny_transformer.training.weights import load_weights, weights_hash


@pytest.fixture
def saved(tmp_path: Path) -> SavedModel:
    return SavedModel(tmp_path)


def refused(path: Path, *named: str) -> str:
    """Return the message that a checkpoint is refused with, which has all of `named`."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert caught.value.exit_status == 2
    for name in named:
        assert name in message
    assert "\n" not in message.strip()
    return message


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_truncated_file_is_refused_by_name(saved: SavedModel, name: str) -> None:
    file = saved.path / name
    whole = file.read_bytes()
    n = len(whole)
    for length in {0, 1, 8, n // 3, n // 2, n - 2, n - 1} - {n}:
        if name == "metadata.json" and whole[length:].isspace():
            continue  # only the last line break is missing: nothing is
        file.write_bytes(whole[:length])
        refused(saved.path, name)
    file.write_bytes(whole + b"\0")
    refused(saved.path, name)


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_flipped_bit_anywhere_is_refused_by_name(saved: SavedModel, name: str) -> None:
    file = saved.path / name
    whole = file.read_bytes()
    # Every byte of the metadata, which nothing else vouches for; 60 places of the others.
    step = 1 if name == "metadata.json" else max(1, len(whole) // 60)
    for index, place in enumerate(range(0, len(whole), step)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (index % 8)
        file.write_bytes(damaged)
        try:
            changed = load_checkpoint(saved.path)
        except CheckpointError as error:
            assert name in str(error), place
        else:
            # White space between two values may change; a value may not.
            assert name == "metadata.json", place
            assert changed.metadata == json.loads(whole), place


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_missing_file_is_refused_by_name(saved: SavedModel, name: str) -> None:
    (saved.path / name).unlink()
    refused(saved.path, name)
    (saved.path / name).mkdir()
    refused(saved.path, name)


def tamper(saved: SavedModel, change: Callable[[dict[str, Any]], Any], *, sealed: bool) -> None:
    """Change the metadata, as somebody would who knows that they are sealed, or not."""
    file = saved.path / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata = change(metadata) or metadata
    if sealed and isinstance(metadata, dict):
        metadata["sha256"] = seal(metadata)
    file.write_text(json.dumps(metadata))


TAMPERINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda m: [m],
    "a number": lambda m: 5,
    "another format": lambda m: m.update(format="somebody.else"),
    "no format": lambda m: m.pop("format") and None,
    "a newer version": lambda m: m.update(version=99),
    "a version as text": lambda m: m.update(version="1"),
    "a step as text": lambda m: m.update(step="2"),
    "a step as a boolean": lambda m: m.update(step=True),
    "a fractional step": lambda m: m.update(step=2.5),
    "a negative step": lambda m: m.update(step=-2),
    "no step": lambda m: m.pop("step") and None,
    "no files": lambda m: m.pop("files") and None,
    "files as a list": lambda m: m.update(files=list(m["files"])),
    "a file left out": lambda m: m["files"].pop("model.safetensors") and None,
    "a file without facts": lambda m: m["files"].update({"model.safetensors": None}),
    "a size as text": lambda m: m["files"]["vocab.json"].update(bytes="many"),
    "no checksum": lambda m: m["files"]["vocab.json"].pop("sha256") and None,
}
PLAUSIBLE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another step": lambda m: m.update(step=3),
    "another run": lambda m: m.update(run_id="other"),
    "a path outside": lambda m: m["files"].update({"../../outside": {"bytes": 1, "sha256": ""}}),
    "no seal": lambda m: m.pop("sha256") and None,
}


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("what", TAMPERINGS)
def test_metadata_of_wrong_types_are_refused(saved: SavedModel, what: str, sealed: bool) -> None:
    tamper(saved, TAMPERINGS[what], sealed=sealed)
    refused(saved.path, saved.path.name)


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("what", PLAUSIBLE)
def test_metadata_that_were_changed_are_refused_however_plausible(
    saved: SavedModel, what: str
) -> None:
    tamper(saved, PLAUSIBLE[what], sealed=False)
    refused(saved.path, "metadata.json")


@pytest.mark.requirement("bad.checkpoint")
def test_a_path_in_the_metadata_leads_nowhere(
    saved: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").write_text("secret")
    tamper(saved, PLAUSIBLE["a path outside"], sealed=True)
    opened: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read(path))
    refused(saved.path, "metadata.json", "../../outside")
    assert {path.parent for path in opened} <= {saved.path}


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100, b"[]", b"{}" + b" " * 99])
def test_nonsense_is_refused_even_with_the_right_checksum(
    saved: SavedModel, name: str, content: bytes
) -> None:
    (saved.path / name).write_bytes(content)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if name == "metadata.json":
        refused(saved.path, name)
    elif name != "config.yaml" or content not in (b"", b"{}" + b" " * 99):  # those are defaults
        tamper(saved, lambda m: m["files"].update({name: facts}), sealed=True)
        refused(saved.path, name)


@pytest.mark.requirement("bad.checkpoint")
def test_a_version_of_tomorrow_is_named(saved: SavedModel) -> None:
    tamper(saved, TAMPERINGS["a newer version"], sealed=False)
    refused(saved.path, "version 99", "versions 2 and 3")


@pytest.mark.requirement("bad.checkpoint")
@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"a":' * 50_000, "9" * 5000, "\ufeff{}"])
def test_metadata_that_are_no_record_are_refused(saved: SavedModel, text: str) -> None:
    (saved.path / "metadata.json").write_text(text)
    refused(saved.path, "metadata.json")


@pytest.mark.requirement("bad.checkpoint")
def test_the_file_of_another_checkpoint_is_refused(saved: SavedModel) -> None:
    for name in ("model.safetensors", "optimizer.safetensors"):
        whole = (saved.path / name).read_bytes()
        saved.update()
        (saved.path / name).write_bytes((saved.save(4) / name).read_bytes())
        refused(saved.path, name)
        (saved.path / name).write_bytes(whole)
    load_checkpoint(saved.path)


@pytest.mark.requirement("bad.checkpoint")
def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder", "nothing"):
        refused(tmp_path / name, name)


@pytest.mark.requirement("bad.checkpoint")
def test_weights_of_another_architecture_are_refused_and_none_is_copied(saved: SavedModel) -> None:
    checkpoint = load_checkpoint(saved.path)
    for change, named in (
        ({"model__d_model": 32}, "embeddings"),
        ({"model__n_layers": 2}, "lacks blocks.1"),
        ({"model__bias": False}, "which the model lacks"),
        ({"model__context_length": 8}, "(16, 16) there and (8, 16) here"),
    ):
        model = Transformer(tiny_config(saved.path, **change).model)
        before = weights_hash(model)
        with pytest.raises(CheckpointError) as caught:
            load_weights(model, checkpoint.weights, where="HERE")
        assert named in str(caught.value)
        assert "HERE does not fit this model" in str(caught.value)
        assert weights_hash(model) == before


@pytest.mark.requirement("bad.checkpoint")
def test_of_the_older_checkpoints_the_newest_is_offered(saved: SavedModel) -> None:
    for step in (1, 3, 99_999_999, 100_000_000):
        saved.save(step)
    offers = {1: None, 2: 1, 3: 2, 99_999_999: 3, 100_000_000: 99_999_999}
    for step, older in offers.items():
        damaged = saved.folder.checkpoint(step) / "model.safetensors"
        whole = damaged.read_bytes()
        damaged.write_bytes(b"")
        message = refused(saved.folder.checkpoint(step), "model.safetensors")
        if older is None:
            assert "An older one" not in message
        else:
            assert message.endswith(f" {saved.folder.checkpoint(older)}.")
        damaged.write_bytes(whole)
