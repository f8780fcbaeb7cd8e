"""A checkpoint in which any bit is flipped, or that ends at any byte, is refused by name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tests.faults.scenarios import run_in, save
from tests.training.helpers import CHECKPOINT_FILES

from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.training.checkpoint import load_checkpoint

Count = Callable[[str, int], None]
SMALL = 2048  # bytes of a file of which each is damaged, not only some


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Two checkpoints of a run; the newer one is to be damaged."""
    run = run_in(tmp_path)
    for step in (1, 2):
        save(run, step, step, val_loss=0.1)
    return run.checkpoints()


def places(size: int, file: str, *, torture: bool) -> Iterable[int]:
    """Return every byte of a small file, and 150 of a large one."""
    if torture or size <= SMALL:
        return range(size)
    drawn = random.Random(file).sample(range(size), 150)
    return sorted({0, 7, 8, size - 1, *drawn})


def damaged(file: Path, content: bytes | bytearray, older: Path) -> bool:
    """Write damaged content; return whether the checkpoint is refused as it must be."""
    file.write_bytes(content)
    try:
        load_checkpoint(file.parent)
    except CheckpointError as error:
        assert file.name in str(error)
        assert str(error).endswith(f"An older one is {older}.")
        return True
    return False


@pytest.mark.requirement("faults.damage")
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_flipped_bit_in_any_byte_is_found(
    checkpoints: list[Path], count: Count, torture: bool, name: str
) -> None:
    older, newer = checkpoints
    file = newer / name
    whole = file.read_bytes()
    for place in places(len(whole), name, torture=torture):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        if not damaged(file, content, older):
            # White space between two values of the metadata may change; a value may not.
            assert name == "metadata.json", place
            assert json.loads(content) == json.loads(whole), place
        count("bits flipped", 1)


@pytest.mark.requirement("faults.damage")
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_file_that_ends_at_any_byte_is_found(
    checkpoints: list[Path], count: Count, torture: bool, name: str
) -> None:
    older, newer = checkpoints
    file = newer / name
    whole = file.read_bytes()
    for length in places(len(whole), name, torture=torture):
        if name == "metadata.json" and whole[length:].isspace():
            continue  # only the last line break is missing: nothing is
        assert damaged(file, whole[:length], older), length
        count("truncations", 1)
