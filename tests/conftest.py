"""Every test has its own cache folder, no network and at most two threads."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "house",
    deadline=None,  # shared machines are uneven
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("house")
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the package's cache into the test's own folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TINY_TRANSFORMER_CACHE", str(folder))
    return folder
