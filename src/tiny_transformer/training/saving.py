"""A run's checkpoints as it is trained: written by one process, or by all, and told in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiny_transformer.runtime.distributed import is_sharded
from tiny_transformer.runtime.environment import git_dirty
from tiny_transformer.tracking.recorder import RunRecorder
from tiny_transformer.training.checkpoint_manager import CheckpointManager
from tiny_transformer.training.state import TrainingState
from tiny_transformer.training.weights import joint_hash, named_weights, tensor_hashes


class Saver:
    """Saves the state of a run, on each of the processes that train it.

    Args:
        state: what is saved.
        record: the run's log and folder.
        hook_list: as the log has it.
        init_from: the run whose weights this one started from.
    """

    def __init__(
        self,
        state: TrainingState,
        record: RunRecorder,
        hook_list: Sequence[Mapping[str, Any]],
        init_from: str | None,
    ) -> None:
        self._state, self._record, self._ranks = state, record, state.ranks
        self._always = {"hook_list": hook_list, "init_from": init_from}
        self._manager = CheckpointManager(record.folder, state.config.checkpoints)

    def prepare(self, *, resumed: bool) -> Path | None:
        """Put the folder right that an earlier process may have left in the middle of work.

        Returns:
            Where the checkpoints after this one were moved to, if there were any.
        """
        if not self._ranks.first:
            return None
        self._record.folder.recover()
        return self._record.folder.supersede_after(self._state.step) if resumed else None

    def save(self) -> Path:
        """Save the state, and remove the checkpoints that no rule keeps; return its folder.

        Raises:
            StorageError: it could not be written, or an old one not removed.
        """
        self._record.sync()  # the checkpoint remembers the log's chain
        if is_sharded(self._state.model):  # each writes its share
            self._write()
        else:
            with self._ranks.together():
                if self._ranks.first:
                    self._write()
        with self._ranks.together():
            if self._ranks.first:
                self._manager.prune()
        return self._record.folder.checkpoint(self._state.step)

    def _write(self) -> None:
        state, record = self._state, self._record
        metadata = {
            **record.identity,
            "git_dirty": git_dirty(),
            "log_chain": record.chain,
            **self._always,
        }
        path = self._manager.save(
            state.step,
            lambda path, ranks: state.save(path, {**metadata, **ranks}),
            record.metrics_at(state.step),
        )
        tensors = tensor_hashes(named_weights(state.model))
        record.event(
            "checkpoint",
            state.step,
            path=str(path.relative_to(record.folder.path)),
            weights_sha256=joint_hash(tensors),
            optimizer_sha256=joint_hash(tensor_hashes(state.optimizer.state_tensors())),
            tensors=tensors,
        )
