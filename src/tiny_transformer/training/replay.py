"""Make a run's updates again, and compare what comes out with its record, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tiny_transformer.config import Config
from tiny_transformer.config.loading import load_config
from tiny_transformer.hooks.base import UpdateHook
from tiny_transformer.hooks.registry import build_hooks
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.environment import changed_numerics
from tiny_transformer.runtime.errors import RunError
from tiny_transformer.tracking.run_folder import RunFolder, step_of
from tiny_transformer.tracking.run_log import bits_of, current_lines, read_log
from tiny_transformer.training.checkpoint import load_checkpoint, open_checkpoint
from tiny_transformer.training.state import TrainingState
from tiny_transformer.training.weights import (
    joint_hash,
    load_weights,
    named_weights,
    tensor_hashes,
)


@dataclass(frozen=True)
class Segment:
    """A part of a run that one process made: how it began, as the log has it."""

    start: dict[str, Any]

    @property
    def first_step(self) -> int:
        """The first update that it made."""
        return self.start["step"] + 1


@dataclass
class Record:
    """What a log says of the run's updates; what was made again later counts.

    Attributes:
        losses: the bits of the loss by step.
        tensors: hashes of all weights, by name, by the step of each checkpoint.
        segments: the segment that made each step, and those without one.
    """

    losses: dict[int, str] = field(default_factory=dict)
    tensors: dict[int, dict[str, str]] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)

    def segment_of(self, step: int) -> Segment:
        """Return the segment that made an update."""
        return next(s for s in reversed(self.segments) if s.first_step <= step)

    @property
    def last_step(self) -> int:
        """The last update that the log has the loss of."""
        return max(self.losses, default=0)


def read_record(folder: RunFolder) -> Record:
    """Read a run's log, as far as it counts (`current_lines`).

    Raises:
        RunError: the log cannot be read, or has no beginning.
    """
    record = Record()
    for line in current_lines(read_log(folder.log)):
        event = line.get("event")
        if event in ("start", "resume"):
            record.segments.append(Segment(line))
        elif event == "train" and "loss_bits" in line:
            record.losses[line["step"]] = line["loss_bits"]
        elif event == "checkpoint" and "tensors" in line:
            record.tensors[line["step"]] = line["tensors"]
    if not record.segments or record.segments[0].first_step != 1:
        raise RunError(f"The run log {folder.log} has no beginning; nothing can be replayed.")
    return record


@dataclass(frozen=True)
class Difference:
    """The first place where a replay parts from the record.

    Attributes:
        step: the update.
        what: `loss`, or the name of the first tensor that differs at a checkpoint.
        recorded: bits of the loss, or hash of the tensor, in the log.
        found: the same of the replay.
    """

    step: int
    what: str
    recorded: str
    found: str


@dataclass
class Replay:
    """What a replay found.

    Attributes:
        origin: the checkpoint that it began from; None is the beginning of the run.
        first_step: the first update that was compared.
        last_step: the last one.
        losses: how many losses were compared and equal.
        checkpoints: how many checkpoints were compared and equal, in every tensor.
        difference: where it parts from the record; None if nowhere.
        notes: what is not as it was when the run was made.
    """

    origin: Path | None
    first_step: int
    last_step: int
    losses: int = 0
    checkpoints: int = 0
    difference: Difference | None = None
    notes: list[str] = field(default_factory=list)


def replay(
    folder: RunFolder,
    first_step: int | None = None,
    last_step: int | None = None,
    *,
    parts: Parts | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Replay:
    """Replay the updates `first_step` to `last_step` of a run, up to the first difference.

    It begins from the newest checkpoint before `first_step`, or from the beginning, on the
    device and with the threads that the run had. Observers stay silent; update hooks act.

    Args:
        folder: the run's.
        first_step: from 1; None is the update after the last checkpoint but one.
        last_step: None is the last checkpoint's step.
        parts: the classes that the run was trained with.
        on_step: told each update that was made again.

    Raises:
        RunError: the log has no such steps, or the beginning cannot be made again.
    """
    record = read_record(folder)
    saved = [path for path in folder.checkpoints() if step_of(path) in record.tensors]
    if last_step is None:
        last_step = step_of(saved[-1]) if saved else record.last_step
    if first_step is None:
        first_step = 1 + max((step_of(p) for p in saved if step_of(p) < last_step), default=0)
    if not 1 <= first_step <= last_step <= record.last_step:
        raise RunError(
            f"Steps {first_step} to {last_step} cannot be replayed: the log of {folder.path} has "
            f"the steps 1 to {record.last_step}."
        )
    origin = next((path for path in reversed(saved) if step_of(path) < first_step), None)
    found = Replay(origin, first_step, last_step)
    with _threads_kept():
        state = _state(folder, record, origin, parts)
        current: Segment | None = None
        while state.step < last_step:
            segment = record.segment_of(state.step + 1)
            if segment is not current:
                found.notes += _enter(state, segment)
                current = segment
            loss = state.compute_gradients().loss
            state.apply_gradients()
            on_step(state.step)
            if state.step >= first_step:
                found.difference = _compare(state, loss, record, found)
            if found.difference is not None:
                break
    return found


def _compare(state: TrainingState, loss: float, record: Record, found: Replay) -> Difference | None:
    """Compare one update with the record, and count what is equal."""
    step, bits = state.step, bits_of(loss)
    recorded = record.losses.get(step)
    if recorded is not None:
        if recorded != bits:
            return Difference(step, "loss", recorded, bits)
        found.losses += 1
    if step in record.tensors:
        hashes, wanted = tensor_hashes(named_weights(state.model)), record.tensors[step]
        for name in [*hashes, *sorted(wanted.keys() - hashes.keys())]:
            if hashes.get(name) != wanted.get(name):
                return Difference(
                    step, name, wanted.get(name, "missing"), hashes.get(name, "missing")
                )
        found.checkpoints += 1
    return None


def _state(
    folder: RunFolder, record: Record, origin: Path | None, parts: Parts | None
) -> TrainingState:
    """Return the state from which the replay goes on, update hooks alone at work."""
    start = record.segment_of(1 if origin is None else step_of(origin) + 1).start
    config = load_config(folder.path / "config.yaml")
    training = dataclasses.replace(
        config.training, device=start["device"], precision=start["precision"]
    )
    config = dataclasses.replace(config, training=training, runs_dir=str(folder.path.parent))
    torch.set_num_threads(start["environment"]["threads"])
    state = TrainingState(config, parts, build_hooks(config.hooks))
    if origin is not None:
        state.load(load_checkpoint(origin))
    else:
        _begin(state, config, start)
    for hook in [hook for hook in state.hooks.hooks if not isinstance(hook, UpdateHook)]:
        state.hooks.hooks.remove(hook)
    return state


def _begin(state: TrainingState, config: Config, start: dict[str, Any]) -> None:
    """Make the first weights, and see that they are those that the run began with."""
    if start["init_from"] is not None:
        source = open_checkpoint(start["init_from"], config.runs_dir)[1]
        load_weights(state.model, source.weights, where=str(source.path))
    if state.data.fingerprint != start["data_fingerprint"]:
        raise RunError(f"The corpus {config.data.corpus!r} is not the one that the run had.")
    if joint_hash(tensor_hashes(named_weights(state.model))) != start["weights_sha256"]:
        raise RunError(
            "The first weights are not those that the run began with. Was it built from parts of "
            "its own, or with another version of the package? Replay from a checkpoint: --from."
        )


def _enter(state: TrainingState, segment: Segment) -> list[str]:
    """Set horizon and threads to those of a segment; return what else is not as it was."""
    start = segment.start
    training = dataclasses.replace(state.config.training, max_steps=start["max_steps"])
    state.config = dataclasses.replace(state.config, training=training)
    torch.set_num_threads(start["environment"]["threads"])
    differing = changed_numerics(start["environment"], state.numerics())
    return [f"from step {segment.first_step}, {text}" for text in differing]


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
