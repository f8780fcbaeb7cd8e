"""Make a run's updates again, and compare what comes out with its record, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tiny_transformer.config import Config
from tiny_transformer.config.loading import load_config
from tiny_transformer.data.tokenizers import tokenizer_of
from tiny_transformer.hooks.base import UpdateHook
from tiny_transformer.hooks.registry import build_hooks, describe_hooks
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.environment import changed_numerics
from tiny_transformer.runtime.errors import RunError, TinyError
from tiny_transformer.runtime.random_state import (
    generator_states,
    restore_generator_states,
)
from tiny_transformer.text.load import load_tokenizer
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.tracking.run_folder import RunFolder, find_run, step_of
from tiny_transformer.tracking.run_log import bits_of
from tiny_transformer.tracking.run_summary import Record, Segment, read_record
from tiny_transformer.training.checkpoint import Checkpoint, load_checkpoint
from tiny_transformer.training.resume import refuse_own_code
from tiny_transformer.training.state import TrainingState
from tiny_transformer.training.weights import (
    joint_hash,
    load_weights,
    named_weights,
    tensor_hashes,
)
from tiny_transformer.training.written_parts import (
    FOLDER,
    changed_parts,
    describe_parts,
    name_parts,
)


@dataclass(frozen=True)
class Difference:
    """The first place where a replay parts from the record.

    Attributes:
        step: the update.
        what: `loss`, `val_loss`, or the name of the first tensor that differs at a checkpoint
            (`the optimizer state` where all weights are equal).
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
        losses: how many losses were compared and equal, of training and validation.
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


@dataclass(frozen=True)
class Plan:
    """A slice of a run that can be replayed, and from where.

    Attributes:
        folder: the run's.
        record: what its log says.
        origin: the newest checkpoint before the slice; None is the beginning of the run.
        first_step: the first update to compare.
        last_step: the last one.
    """

    folder: RunFolder
    record: Record
    origin: Path | None
    first_step: int
    last_step: int


def plan_replay(
    folder: RunFolder, first_step: int | None = None, last_step: int | None = None
) -> Plan:
    """Find where the replay of a slice begins.

    Args:
        folder: the run's.
        first_step: from 1; None is the update after the last checkpoint before `last_step`.
        last_step: None is the last checkpoint's step.

    Raises:
        RunError: the log has no such steps, or nothing to compare them with.
    """
    record = read_record(folder)
    if record.last_step == 0:
        raise RunError(
            f"The run {folder.path} made no update that its log knows of: there is nothing to "
            "replay. Check its files alone with --no-replay."
        )
    saved = [path for path in folder.checkpoints() if step_of(path) in record.tensors]
    if last_step is None:
        last_step = step_of(saved[-1]) if saved else record.last_step
        if first_step is not None and first_step > last_step:
            last_step = record.last_step
    if first_step is None:
        first_step = 1 + max((step_of(p) for p in saved if step_of(p) < last_step), default=0)
    if not 1 <= first_step <= last_step <= record.last_step:
        raise RunError(
            f"Steps {first_step} to {last_step} cannot be replayed: the log of {folder.path} has "
            f"the steps 1 to {record.last_step}."
        )
    if not any(first_step <= s <= last_step for s in (*record.losses, *record.tensors)):
        raise RunError(
            f"Steps {first_step} to {last_step} of {folder.path} have neither a loss nor a "
            "checkpoint in the log, so there is nothing to compare. Choose more steps."
        )
    origin = next((path for path in reversed(saved) if step_of(path) < first_step), None)
    return Plan(folder, record, origin, first_step, last_step)


def replay(
    plan: Plan,
    *,
    parts: Parts | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Replay:
    """Replay a slice of a run, up to the first difference.

    It runs on the device and with the threads that the run had. Observers stay silent;
    update hooks act. Nothing in the run's folder is changed, and the threads and the random
    generators of this process are put back.

    Args:
        plan: the slice.
        parts: the classes that the run was trained with.
        on_step: told each update that was made again.

    Raises:
        TinyError: the beginning cannot be made again.
    """
    record = plan.record
    found = Replay(plan.origin, plan.first_step, plan.last_step)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_threads_kept())
        stack.callback(restore_generator_states, generator_states())
        state = _state(plan, parts)
        stack.callback(state.hooks.close)
        current: Segment | None = None
        while state.step < plan.last_step and found.difference is None:
            segment = record.segment_of(state.step + 1)
            if segment is not current:
                found.notes += _enter(state, segment)
                current = segment
            step, compared = state.step + 1, state.step + 1 >= plan.first_step
            loss = state.compute_gradients().loss
            if compared and step in record.losses:
                _compare(found, step, "loss", record.losses[step], bits_of(loss))
            if found.difference is None:
                state.apply_gradients()
                on_step(step)
                if compared:
                    _compare_state(found, state, record)
    return found


def _compare(found: Replay, step: int, what: str, recorded: str, bits: str) -> None:
    """Compare one loss with the record."""
    if recorded == bits:
        found.losses += 1
    else:
        found.difference = Difference(step, what, recorded, bits)


def _compare_state(found: Replay, state: TrainingState, record: Record) -> None:
    """Compare what an update led to with the record: validation loss, weights, optimizer."""
    step = state.step
    if step in record.tensors:
        hashes, wanted = tensor_hashes(named_weights(state.model)), dict(record.tensors[step])
        optimizer = "the optimizer state"
        hashes[optimizer] = joint_hash(tensor_hashes(state.optimizer.state_tensors()))
        wanted[optimizer] = record.optimizers[step]
        for name in [*hashes, *sorted(wanted.keys() - hashes.keys())]:
            if hashes.get(name) != wanted.get(name):
                found.difference = Difference(
                    step, name, str(wanted.get(name)), str(hashes.get(name))
                )
                return
        found.checkpoints += 1
    if step in record.val_losses:
        bits = bits_of(state.evaluate().loss)
        _compare(found, step, "val_loss", record.val_losses[step], bits)


def _state(plan: Plan, parts: Parts | None) -> TrainingState:
    """Return the state from which the replay goes on, update hooks alone at work."""
    folder, origin = plan.folder, plan.origin
    start = plan.record.segment_of(1 if origin is None else step_of(origin) + 1).start
    config = load_config(folder.path / "config.yaml")
    refuse_own_code(config, folder, RunError)
    _refuse_missing_parts(start, folder, parts)
    _refuse_several_ranks(start)
    training = dataclasses.replace(
        config.training, device=start["device"], precision=start["precision"]
    )
    config = dataclasses.replace(config, training=training, runs_dir=str(folder.path.parent))
    _set_threads(start)
    checkpoint = None if origin is None else load_checkpoint(origin)
    tokenizer = _tokenizer(config, folder, checkpoint)
    state = TrainingState(config, parts, build_hooks(config.hooks), tokenizer)
    if checkpoint is not None:
        state.load(checkpoint)
    else:
        _begin(state, config, start)
    hooks = state.hooks.hooks
    observers = [hook for hook in hooks if not isinstance(hook, UpdateHook)]
    hooks[:] = [hook for hook in hooks if isinstance(hook, UpdateHook)]
    HookRunner(observers, state.model, seed=config.training.seed).close()
    return state


def _tokenizer(config: Config, folder: RunFolder, checkpoint: Checkpoint | None) -> Tokenizer:
    """Return the tokenizer that a run was begun with; it is never trained again."""
    if checkpoint is not None:
        return checkpoint.tokenizer
    if config.data.tokenizer == "characters":
        return tokenizer_of(config.data, config.model.vocab_size)
    return load_tokenizer(folder.path / "vocab.json")


def _begin(state: TrainingState, config: Config, start: dict[str, Any]) -> None:
    """Make the first weights, and see that they are those that the run began with."""
    if state.data.fingerprint != start["data_fingerprint"]:
        raise RunError(f"The corpus {config.data.corpus!r} is not the one that the run had.")
    wanted, given = start["weights_sha256"], start["init_from"]
    if given is not None:
        source = _source(given, config.runs_dir, wanted)
        load_weights(state.model, source.weights, where=str(source.path))
    if joint_hash(tensor_hashes(named_weights(state.model))) != wanted:
        raise RunError(
            "The first weights are not those that the run began with. Was it built from parts of "
            "its own, or with another version of the package? Replay from a checkpoint: --from."
        )


def _source(given: str, runs_dir: str, wanted: str) -> Checkpoint:
    """Return the checkpoint that a run's first weights came from, also if later ones followed."""
    way_out = "Replay from one of the run's own checkpoints: --from."
    try:
        folder, latest = find_run(given, runs_dir)
        for path in dict.fromkeys([latest, *reversed(folder.checkpoints())]):
            checkpoint = load_checkpoint(path)
            if joint_hash(tensor_hashes(checkpoint.weights)) == wanted:
                return checkpoint
    except TinyError as error:
        raise RunError(
            f"The run began with the weights of {given!r} (--init-from), which cannot be read: "
            f"{error} {way_out}"
        ) from None
    raise RunError(
        f"The run began with weights of {given!r} (--init-from) that no checkpoint there has "
        f"now. {way_out}"
    )


def _set_threads(start: dict[str, Any]) -> None:
    threads = start["environment"].get("threads")
    if type(threads) is not int or threads < 1:
        raise RunError(f"The log says that the run had {threads!r} threads; it cannot be replayed.")
    torch.set_num_threads(threads)


def _refuse_missing_parts(start: dict[str, Any], folder: RunFolder, parts: Parts | None) -> None:
    """Raise `RunError` where a run had parts of its own and none are given."""
    written = name_parts(start.get("parts"))
    if written and parts is None:
        raise RunError(
            f"The run was trained with parts of its own: {written}. Give them: --parts "
            f"{folder.path / FOLDER}, which runs the Python files in it; or check the files "
            "alone: --no-replay."
        )


def _refuse_several_ranks(start: dict[str, Any]) -> None:
    """Raise `RunError` where several processes made the updates: one adds in another order."""
    ranks = start["environment"].get("ranks", 1)
    if ranks != 1:
        raise RunError(
            f"The updates from step {start['step'] + 1} on were made by {ranks} processes; one, "
            "which replays, adds in another order, so the last bits would differ. Check the files "
            "alone: --no-replay."
        )


def _enter(state: TrainingState, segment: Segment) -> list[str]:
    """Set horizon and threads to those of a segment; return what else is not as it was."""
    start = segment.start
    _refuse_several_ranks(start)
    training = dataclasses.replace(state.config.training, max_steps=start["max_steps"])
    state.config = dataclasses.replace(state.config, training=training)
    _set_threads(start)
    differing = changed_numerics(start["environment"], state.numerics())
    if json.loads(json.dumps(describe_hooks(state.config.hooks))) != start["hooks"]:
        differing.append("the hooks, or the file of one, are not what they were then")
    differing += changed_parts(start.get("parts"), describe_parts(state.parts))
    return [f"from step {segment.first_step}, {text}" for text in differing]


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
