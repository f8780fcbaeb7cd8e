"""Exports of tiny models: one thread computes them fastest, and no one asks the network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from tests.model.conftest import one_thread as one_thread
