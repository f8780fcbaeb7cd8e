"""The server that forks what is to be killed, one for all tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.scenarios import remember_configs
from tests.faults.server import ForkServer

from tiny_transformer.config import loading
from tiny_transformer.training import checkpoint


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    server = ForkServer(tmp_path_factory.mktemp("cache"))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def quick_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "dump_config", loading.dump_config)  # put back after the test
    monkeypatch.setattr(checkpoint, "_config", getattr(checkpoint, "_config"))  # noqa: B009
    remember_configs()
