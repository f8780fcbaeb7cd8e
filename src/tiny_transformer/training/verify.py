"""What of a run's record holds: its log, its files, its checkpoints; and a replay of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.tracking.run_folder import RunFolder, record_files
from tiny_transformer.tracking.run_log import (
    ChainReport,
    check_chain,
    current_lines,
    float_of,
    read_log,
)
from tiny_transformer.tracking.run_summary import IMPORTED, claimed_bits
from tiny_transformer.training.checkpoint import Checkpoint, load_checkpoint
from tiny_transformer.training.replay import Replay
from tiny_transformer.training.weights import joint_hash, tensor_hashes


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: the log, a file, a checkpoint, a slice of steps.
        ok: whether it is as it was written.
        detail: what was found, in words.
        notes: what else should be known of it.
    """

    what: str
    ok: bool
    detail: str
    notes: tuple[str, ...] = ()


def verify_files(folder: RunFolder) -> Iterator[Finding]:
    """Look at everything that a run wrote and its log can vouch for, one finding each.

    Raises:
        RunError: the run has no log.
    """
    chain = check_chain(folder.log)
    lines = read_log(folder.log)
    yield _log_finding(chain, lines)
    starts = [
        x["files"] for event in ("start", IMPORTED) for x in _events(lines, event, files=dict)
    ]
    found = record_files(folder.path)
    for name, digest in (starts[0] if starts else {}).items():
        if name not in found:
            yield Finding(name, False, "missing")
        else:
            same = found[name] == digest
            yield Finding(name, same, "as it was written" if same else "changed since")
    yield from _samples(folder, lines)
    counting = current_lines(lines)
    recorded = {x["step"]: x for x in _events(counting, "checkpoint", step=int, tensors=dict)}
    for path in folder.checkpoints():
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            yield Finding(path.name, False, str(error))
        else:
            yield _checkpoint_finding(checkpoint, chain, recorded.get(checkpoint.step))


def _events(lines: list[dict], event: str, **kinds: type) -> Iterator[dict]:
    """Yield the lines of an event that have these fields; another program's may not."""
    for line in lines:
        if line.get("event") == event and all(type(line.get(n)) is k for n, k in kinds.items()):
            yield line


def _log_finding(chain: ChainReport, lines: list[dict]) -> Finding:
    if chain.broken is not None:
        return Finding(
            "log.jsonl", False, f"line {chain.broken} is not what was written there, or one is gone"
        )
    if chain.lines == 0:
        return Finding("log.jsonl", False, "there is no line in it")
    for event, name in (("train", "loss"), ("eval", "val_loss")):
        for line in _events(lines, event, **{f"{name}_bits": str}):
            if claimed_bits(line, name) != line[f"{name}_bits"]:
                told = f"{name} is {line.get(name)!r}, and its bits are another number"
                return Finding("log.jsonl", False, f"at step {line.get('step')} {told}")
    torn = f"; {len(chain.torn)} cut short by a crash" if chain.torn else ""
    return Finding(
        "log.jsonl",
        True,
        f"{_counted(chain.lines, 'line', 'lines')}, each chained to the last{torn}",
    )


def _samples(folder: RunFolder, lines: list[dict]) -> Iterator[Finding]:
    """Compare sample files with their texts in the log."""
    found = _events(lines, "sample", step=int, prompt=str, text=str)
    texts = {x["step"]: x["prompt"] + x["text"] for x in found}
    for step, text in sorted(texts.items()):
        path = folder.sample(step)
        try:
            same = path.read_bytes() == text.encode("utf-8", "surrogatepass")
            detail = "as it was written" if same else "changed since"
        except OSError as error:
            same, detail = False, f"cannot be read: {error.strerror}"
        yield Finding(f"samples/{path.name}", same, detail)


def _checkpoint_finding(checkpoint: Checkpoint, chain: ChainReport, line: dict | None) -> Finding:
    name = checkpoint.path.name
    if chain.broken is None and checkpoint.metadata.get("log_chain") not in chain.chains:
        return Finding(name, False, "the log lacks the line that it was saved after: one is gone")
    if line is None:  # a crash between saving and logging
        return Finding(name, True, "whole; the log does not mention it")
    hashes = tensor_hashes(checkpoint.weights)
    for tensor, digest in line.get("tensors", {}).items():
        if hashes.get(tensor) != digest:
            return Finding(name, False, f"{tensor} is not what the log says was saved")
    optimizer = joint_hash(tensor_hashes(checkpoint.optimizer_state))
    if optimizer != line.get("optimizer_sha256", optimizer):
        return Finding(name, False, "the optimizer state is not what the log says was saved")
    return Finding(name, True, "whole, and the weights that the log says were saved")


def replay_finding(found: Replay) -> Finding:
    """Say what a replay came to."""
    what = f"steps {found.first_step} to {found.last_step}"
    origin = "the beginning" if found.origin is None else found.origin.name
    gap, notes = found.difference, tuple(found.notes)
    if gap is None:
        return Finding(
            what,
            True,
            f"replayed from {origin}: {_counted(found.losses, 'loss', 'losses')} and "
            f"{_counted(found.checkpoints, 'checkpoint', 'checkpoints')} equal, to the last bit",
            notes,
        )
    if gap.what in ("loss", "val_loss"):
        name = "loss" if gap.what == "loss" else "validation loss"
        told = f"the {name} first differs at step {gap.step}: {_value(gap.recorded)} recorded, "
        return Finding(what, False, f"{told}{_value(gap.found)} found", notes)
    told = f"at the checkpoint of step {gap.step} the first tensor to differ is {gap.what}"
    return Finding(what, False, told, notes)


def _value(bits: str) -> str:
    """Return a float's value and bits for a message."""
    try:
        return f"{float_of(bits)!r} ({bits})"
    except (ValueError, TypeError):
        return repr(bits)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
