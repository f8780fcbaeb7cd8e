"""What of a run's record holds: its log, its files, its checkpoints; and a replay of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.tracking.run_folder import RunFolder, record_files
from tiny_transformer.tracking.run_log import ChainReport, check_chain, float_of, read_log
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
    """

    what: str
    ok: bool
    detail: str


def verify_files(folder: RunFolder) -> Iterator[Finding]:
    """Look at everything that a run wrote and its log can vouch for, one finding each.

    Raises:
        RunError: the run has no log.
    """
    chain = check_chain(folder.log)
    yield _chain_finding(chain)
    lines = read_log(folder.log)
    written = next((x["files"] for x in lines if x.get("event") == "start" and "files" in x), {})
    found = record_files(folder.path)
    for name, digest in written.items():
        if name not in found:
            yield Finding(name, False, "missing")
        else:
            same = found[name] == digest
            yield Finding(name, same, "as it was written" if same else "changed since")
    yield from _samples(folder, lines)
    recorded = {x["step"]: x for x in lines if x.get("event") == "checkpoint"}
    for path in folder.checkpoints():
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            yield Finding(path.name, False, str(error))
        else:
            yield _checkpoint_finding(checkpoint, chain, recorded.get(checkpoint.step))


def _chain_finding(chain: ChainReport) -> Finding:
    if chain.broken is not None:
        return Finding(
            "log.jsonl", False, f"line {chain.broken} is not what was written there, or one is gone"
        )
    torn = f"; {len(chain.torn)} cut short by a crash" if chain.torn else ""
    return Finding("log.jsonl", True, f"{chain.lines} lines, each chained to the last{torn}")


def _samples(folder: RunFolder, lines: list[dict]) -> Iterator[Finding]:
    """Compare sample files with their texts in the log."""
    texts = {x["step"]: x["prompt"] + x["text"] for x in lines if x.get("event") == "sample"}
    for step, text in sorted(texts.items()):
        path = folder.sample(step)
        try:
            same = path.read_bytes() == text.encode()
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
    gap = found.difference
    if gap is None:
        return Finding(
            what,
            True,
            f"replayed from {origin}: {found.losses} losses and {found.checkpoints} checkpoints "
            "equal, to the last bit",
        )
    notes = f" ({'; '.join(found.notes)})" if found.notes else ""
    if gap.what == "loss":
        told = f"the loss first differs at step {gap.step}: {_value(gap.recorded)} recorded, "
        return Finding(what, False, f"{told}{_value(gap.found)} found{notes}")
    return Finding(
        what,
        False,
        f"at the checkpoint of step {gap.step} the first tensor to differ is {gap.what}{notes}",
    )


def _value(bits: str) -> str:
    """Return a float's value and bits for a message."""
    try:
        return f"{float_of(bits)!r} ({bits})"
    except (ValueError, TypeError):
        return repr(bits)
