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


@pytest.fixture(autouse=True, scope="session")
def quick_yaml() -> Iterator[None]:
    dump, load = loading.dump_config, checkpoint.load_config
    remember_configs()
    yield
    loading.dump_config, checkpoint.load_config = dump, load
