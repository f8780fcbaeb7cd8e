"""Which checkpoints of a run are kept: the last ones, the best ones, every so many steps.

Notable: each checkpoint's own metadata says how it ranks, so there is no list that could
disagree with the folders; old ones go only after the new one is safe on the disk.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tiny_transformer.config import CheckpointsConfig
from tiny_transformer.runtime import files
from tiny_transformer.tracking.run_folder import RunFolder, best_first, step_of

Save = Callable[[Path, Mapping[str, Any]], Path]


class CheckpointManager:
    """Saves a run's checkpoints, and removes those that no rule keeps.

    Args:
        folder: the run's.
        config: the rules.
    """

    def __init__(self, folder: RunFolder, config: CheckpointsConfig) -> None:
        self.folder, self.config = folder, config

    def save(self, step: int, save: Save, metrics: Mapping[str, Any] | None = None) -> Path:
        """Save a checkpoint.

        Args:
            step: updates made.
            save: writes the checkpoint at a path, with these entries in its metadata.
            metrics: what was logged at this step; a metric that is missing, None, NaN or no
                number is never the best, and does no harm.

        Returns:
            The checkpoint's folder.

        Raises:
            StorageError: it could not be written; the older ones are unharmed.
        """
        kept = {name: value for name, value in (metrics or {}).items() if _is_number(value)}
        rank = {"metric": self.config.metric, "mode": self.config.mode}
        return save(self.folder.checkpoint(step), {"metrics": kept, "rank": rank})

    def prune(self) -> list[Path]:
        """Remove the checkpoints that no rule keeps; return those removed.

        Raises:
            StorageError: one could not be removed.
        """
        found = self.folder.checkpoints()
        keep = self._last(found) | self._best(found) | self._every(found)
        removed = [path for path in found[:-1] if path not in keep]  # never the newest
        for path in removed:
            files.move_and_discard(
                path, path.with_name(f".{path.name}.{secrets.token_hex(4)}.gone")
            )
        return removed

    def latest(self) -> Path:
        """Return the newest checkpoint; raise `CheckpointError` if there is none."""
        return self.folder.latest_checkpoint()

    def best(self) -> Path:
        """Return the best checkpoint; raise `CheckpointError` if none has the metric."""
        return self.folder.best_checkpoint()

    def _last(self, found: list[Path]) -> set[Path]:
        n = self.config.keep_last
        return set(found if n is None else found[-n:])

    def _best(self, found: list[Path]) -> set[Path]:
        return set(best_first(found)[: self.config.keep_best])

    def _every(self, found: list[Path]) -> set[Path]:
        every = self.config.keep_every
        return {path for path in found if every and step_of(path) % every == 0}


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number, which JSON can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
