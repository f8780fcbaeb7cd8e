"""The package works in worker processes that are spawned, as macOS starts them."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from tiny_transformer.config import ModelConfig
from tiny_transformer.text import CharTokenizer


def work(config: ModelConfig, text: str) -> tuple[int, ModelConfig, list[int]]:
    return os.getpid(), config, CharTokenizer().encode(text).tolist()


@pytest.mark.requirement("setup.spawn")
def test_configs_and_text_go_to_a_spawned_worker_and_back() -> None:
    config = ModelConfig(n_layers=3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pid, returned, ids = pool.apply(work, (config, "To be\n"))
    assert pid != os.getpid()
    assert returned == config
    assert ids == CharTokenizer().encode("To be\n").tolist()
