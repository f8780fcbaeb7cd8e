"""A checkpoint is read whole while another process saves and prunes as fast as it can."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.scenarios import run_in
from tests.faults.server import ForkServer

from tiny_transformer.training.checkpoint import open_checkpoint


@pytest.mark.requirement("faults.reader")
def test_every_load_during_saves_succeeds_and_is_whole(
    tmp_path: Path, server: ForkServer, count: Callable[[str, int], None], torture: bool
) -> None:
    run, stop = run_in(tmp_path), tmp_path / "stop"
    writer = server.start("save_quickly", root=str(tmp_path), stop=str(stop))
    try:
        while not run.checkpoints():
            time.sleep(0.01)
        n_loads, last, steps = 0, 0, set[int]()
        end = time.monotonic() + (60 if torture else 3)
        while time.monotonic() < end:
            _, loaded = open_checkpoint(run.path)
            content = loaded.metadata["content"]
            assert content == loaded.step >= last  # never an older one than before
            assert all(bool((tensor == content).all()) for tensor in loaded.weights.values())
            n_loads, last = n_loads + 1, loaded.step
            steps.add(loaded.step)
    finally:
        stop.touch()
        status, n_saved = server.wait(writer)
    assert status == 0, n_saved
    assert len(steps) > 5  # reader and writer met
    count("loads during saves", n_loads)
    count("saves during loads", n_saved)
