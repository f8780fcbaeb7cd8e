"""Windows to batches, in an order that is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from tiny_transformer.data.dataset import WindowDataset
from tiny_transformer.data.permutation import Permutation
from tiny_transformer.runtime.errors import ConfigError, DataError


class DataLoader:
    """Batches of windows; nothing is remembered from one step to the next.

    Step `s` belongs to epoch `s // steps_per_epoch`. Each epoch draws every window once, in
    an order of its own; what is left at its end and does not fill a batch is dropped.
    Iterating goes through epoch 0 once.

    Args:
        dataset: the windows.
        batch_size: windows of one optimizer step.
        seed: what the order depends on.
        shuffle: False takes the windows in the order of the text.
        accumulation_steps: micro-batches that `micro_batches` cuts a batch into.

    Raises:
        ConfigError: `accumulation_steps` does not divide `batch_size`.
        DataError: there are fewer windows than one batch takes.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int = 16,
        *,
        seed: int = 1337,
        shuffle: bool = True,
        accumulation_steps: int = 1,
    ) -> None:
        if batch_size < 1 or accumulation_steps < 1 or batch_size % accumulation_steps:
            raise ConfigError(
                f"batch_size is {batch_size} and accumulation_steps is {accumulation_steps}; "
                "both must be at least 1, and accumulation_steps must divide batch_size."
            )
        if len(dataset) < batch_size:
            raise DataError(
                f"The training text is too short: a batch of {batch_size} windows needs "
                f"{dataset.needed(batch_size)} characters in one piece, but the text has "
                f"{sum(map(len, dataset.parts))}, which give {len(dataset)} windows. Give a "
                "longer text, or a smaller --training.batch-size, --model.context-length or "
                "--data.stride."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.accumulation_steps = accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        return len(self.dataset) // self.batch_size

    def __len__(self) -> int:
        return self.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """Return the window numbers of a step: int64 `(batch_size,)`, from (seed, step) alone."""
        if step < 0:
            raise IndexError(f"step is {step}; steps count from 0")
        epoch, within = divmod(step, self.steps_per_epoch)
        positions = np.arange(within * self.batch_size, (within + 1) * self.batch_size)
        if not self.shuffle:
            return positions
        return Permutation(len(self.dataset), "windows", self.seed, epoch)(positions)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return `x` and `y` of a step, both int64 `(batch_size, T)`."""
        return self.dataset.batch(self.indices(step))

    def micro_batches(
        self, step: int, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batch of a step in `accumulation_steps` pieces of equal size, in order.

        Args:
            step: from 0.
            rank: which share of each piece to take, from 0.
            n_ranks: shares of equal size that each piece is cut into.
        """
        for indices in np.split(self.indices(step), self.accumulation_steps):
            yield self.dataset.batch(np.split(indices, n_ranks)[rank])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.batch(step) for step in range(len(self)))

    def from_step(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of `step`, `step + 1` and so on, without end."""
        while True:
            yield self.batch(step)
            step += 1
