"""One server for all tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from tests.serving.helpers import Server, running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()
