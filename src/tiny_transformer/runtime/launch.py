"""What torchrun told this process, read before anything heavy is imported."""

from __future__ import annotations

import os

_joined: list[bool] = []


def several() -> bool:
    """Return whether this process was started as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def has_speaker() -> bool:
    """Return whether another process of this machine tells what is wrong with all of them.

    So it is until they have joined: then what one finds may be known to it alone.
    """
    return several() and os.environ.get("LOCAL_RANK", "0") != "0" and not _joined


def has_joined() -> None:
    """From now on this process speaks for itself."""
    _joined.append(True)
