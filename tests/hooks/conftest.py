"""A run without hooks, to hold others against."""

from __future__ import annotations

from typing import Any

import pytest
from tests.hooks.helpers import outcome, run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outcome of a run without hooks, by optimizer."""
    folder = tmp_path_factory.mktemp("plain")
    return {name: outcome(run(folder, optimizer__name=name)) for name in ("adamw", "muon")}
