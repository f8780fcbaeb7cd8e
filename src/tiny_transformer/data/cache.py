"""Where downloaded and prepared corpora are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "TINY_TRANSFORMER_CACHE"


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    `TINY_TRANSFORMER_CACHE` names it; else it is `tiny_transformer` in the user's own cache
    folder (`~/Library/Caches` on macOS, `$XDG_CACHE_HOME` or `~/.cache` elsewhere).
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tiny_transformer"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tiny_transformer"
