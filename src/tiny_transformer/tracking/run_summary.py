"""What a run's record says of it, read back from its folder."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from tiny_transformer.runtime.errors import RunError, StorageError, suggest
from tiny_transformer.tracking.run_folder import RunFolder, step_of
from tiny_transformer.tracking.run_log import bits_of, current_lines, metric_by_step, read_log

IMPORTED = "imported"  # the event with which a run of another program's weights begins
_AHEAD = ("diverged", "hook")  # events that may tell of an update before it is made
_T = TypeVar("_T")


@dataclass(frozen=True)
class RunSummary:
    """One run, as `tiny runs` tells of it; None where the log does not say.

    Attributes:
        status: `complete`, `paused` (it reached `--training.stop-at`), `interrupted`,
            `diverged`, `failed`, `training` (a process is at it), `imported` (its weights are
            another program's, and no update was made), or `stopped` (it ended without a word).
        source: folder and model type of weights that were brought in.
        started: time of the first start, UTC.
        step: updates made.
        train_loss: mean of the last tenth of the training losses.
        val_loss: the last one.
        best_val_loss: the smallest one, at `best_step`.
        bits_per_byte: of the last evaluation; the one loss to compare across tokenizers.
        tokens_per_second: median over the training lines.
    """

    run_id: str
    status: str
    started: str | None
    source: str | None
    step: int
    max_steps: int | None
    train_loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    best_step: int | None
    bits_per_byte: float | None
    tokens_per_second: float | None
    n_parameters: int | None
    corpus: str | None
    seed: int | None
    device: str | None
    precision: str | None
    hooks: tuple[str, ...]
    config_hash: str | None
    git_commit: str | None
    git_dirty: bool | None
    data_fingerprint: str | None
    checkpoints: tuple[int, ...]
    resumed: int


def summarize(folder: RunFolder, lines: list[dict[str, Any]] | None = None) -> RunSummary:
    """Return what the log of a run says.

    Args:
        folder: the run's.
        lines: its log, if it has been read already.

    Raises:
        RunError: the run has no log.
    """
    lines = current_lines(read_log(folder.log) if lines is None else lines)
    starts = [line for line in lines if line.get("event") in ("start", "resume", IMPORTED)]
    last: dict[str, Any] = starts[-1] if starts else {}
    train = metric_by_step(lines, "train", "loss")
    val = metric_by_step(lines, "eval", "val_loss")
    bits = metric_by_step(lines, "eval", "bits_per_char")  # all that runs of characters once had
    bits |= metric_by_step(lines, "eval", "bits_per_byte")
    speed = metric_by_step(lines, "train", "tokens_per_second")
    tail = list(train.values())[-max(1, len(train) // 10) :]
    numbers = [(loss, step) for step, loss in val.items() if math.isfinite(loss)]
    best = min(numbers, default=(None, None))
    step = max((x["step"] for x in lines if x.get("event") not in _AHEAD), default=0)
    max_steps = _of_kind(last, "max_steps", int)
    return RunSummary(
        run_id=folder.run_id,
        status=_status(folder, lines, done=max_steps is None or step >= max_steps),
        started=_of_kind(starts[0], "time", str) if starts else None,
        source=_source(starts[0]) if starts else None,
        step=step,
        max_steps=max_steps,
        train_loss=sum(tail) / len(tail) if tail else None,
        val_loss=val[max(val)] if val else None,
        best_val_loss=best[0],
        best_step=best[1],
        bits_per_byte=bits[max(bits)] if bits else None,
        tokens_per_second=median(speed.values()) if speed else None,
        n_parameters=_of_kind(last, "n_parameters", int),
        corpus=_of_kind(last, "corpus", str),
        seed=_of_kind(last, "seed", int),
        device=_of_kind(last, "device", str),
        precision=_of_kind(last, "precision", str),
        hooks=_hook_names(last),
        config_hash=_of_kind(last, "config_hash", str),
        git_commit=_of_kind(last, "git_commit", str),
        git_dirty=_of_kind(last, "git_dirty", bool),
        data_fingerprint=_of_kind(last, "data_fingerprint", str),
        checkpoints=tuple(map(step_of, folder.checkpoints())),
        resumed=len(starts) - 1 if starts else 0,
    )


def _of_kind(line: dict[str, Any], name: str, kind: type[_T]) -> _T | None:
    """Return a field of a log line; None where it is missing, or another program's."""
    value = line.get(name)
    return value if type(value) is kind else None


def _source(start: dict[str, Any]) -> str | None:
    """Return where the weights of an imported run came from."""
    source = _of_kind(start, "source", dict)
    return None if source is None else f"{source.get('folder')} ({source.get('model_type')})"


def _hook_names(start: dict[str, Any]) -> tuple[str, ...]:
    entries = [h for h in _of_kind(start, "hooks", list) or [] if isinstance(h, dict)]
    return tuple(str(h.get("name")) for h in entries if h.get("enabled", True))


def _status(folder: RunFolder, lines: list[dict[str, Any]], *, done: bool) -> str:
    with contextlib.suppress(StorageError):  # a folder that may only be read
        if folder.is_locked():
            return "training"
    event = lines[-1].get("event") if lines else None
    if any(line.get("event") == IMPORTED for line in lines):
        return IMPORTED
    if event == "end":
        return "complete" if done else "paused"
    return event if event in ("interrupted", "diverged", "failed") else "stopped"


def run_folders(runs_dir: str | Path) -> list[RunFolder]:
    """Return all runs below a folder that have a log, in the order of their names."""
    return [RunFolder(path.parent) for path in sorted(Path(runs_dir).glob("*/log.jsonl"))]


def find_folder(reference: str | Path, runs_dir: str | Path = "runs") -> RunFolder:
    """Return the run of a folder or an id; unlike `find_run` it needs no checkpoint.

    Raises:
        RunError: nothing of that name is a run.
    """
    with contextlib.suppress(OSError):  # for instance a name that is too long for any file
        for path in (Path(reference), Path(runs_dir) / reference):
            if (path / "log.jsonl").is_file():
                return RunFolder(path)
    known = [folder.run_id for folder in run_folders(runs_dir)]
    hint = suggest(Path(reference).name, known)
    if not known:
        hint = "Train one first: tiny train --config tiny"
    elif hint.startswith("Valid") and len(known) > 8:
        hint = "tiny runs list shows those that there are."
    raise RunError(
        f"There is no run {str(reference)!r}, neither as a folder nor in {runs_dir}/. {hint}"
    )


def config_differences(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings in which runs differ.

    Args:
        runs: for each run its settings, as nested dictionaries.

    Returns:
        `{dotted name: {run: value}}`; name, place and pause are left out.
    """
    flat = {run: dict(flat_settings(settings)) for run, settings in runs.items()}
    names = list(dict.fromkeys(name for settings in flat.values() for name in settings))
    return {
        name: {run: settings.get(name) for run, settings in flat.items()}
        for name in names
        if name not in ("run_name", "runs_dir", "training.stop_at")
        and len({repr(settings.get(name)) for settings in flat.values()}) > 1
    }


def first_difference(logs: Sequence[list[dict[str, Any]]]) -> int | None:
    """Return the first step at which runs have another training or validation loss, in bits.

    Args:
        logs: of each run the lines that count.

    Returns:
        The step; None where all losses that two runs both have are equal.
    """
    known: dict[tuple[str, int], set[str]] = {}
    for line in (line for lines in logs for line in lines):
        for event, name in (("train", "loss"), ("eval", "val_loss")):
            if line.get("event") == event and f"{name}_bits" in line:
                known.setdefault((event, line["step"]), set()).add(claimed_bits(line, name))
    return min((step for (_, step), bits in known.items() if len(bits) > 1), default=None)


def flat_settings(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested settings as pairs of dotted name and value."""
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += flat_settings(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


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
        losses: the bits of the training loss by step.
        val_losses: the bits of the validation loss by step.
        tensors: hashes of all weights, by name, by the step of each checkpoint.
        optimizers: hash of the optimizer state by the step of each checkpoint.
        segments: the parts of the run, in order.
    """

    losses: dict[int, str] = field(default_factory=dict)
    val_losses: dict[int, str] = field(default_factory=dict)
    tensors: dict[int, dict[str, str]] = field(default_factory=dict)
    optimizers: dict[int, str] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)

    def segment_of(self, step: int) -> Segment:
        """Return the segment that made an update."""
        return next(s for s in reversed(self.segments) if s.first_step <= step)

    @property
    def last_step(self) -> int:
        """The last update that the log has a loss or a checkpoint of."""
        return max([*self.losses, *self.tensors], default=0)


_START: dict[str, type | tuple[type, ...]] = {
    "environment": dict,
    "device": str,
    "precision": str,
    "max_steps": int,
    "init_from": (str, type(None)),
    "data_fingerprint": str,
    "weights_sha256": str,
    "hooks": list,
}


def read_record(folder: RunFolder) -> Record:
    """Read a run's log, as far as it counts (`current_lines`).

    Raises:
        RunError: the log cannot be read, has no beginning, or is of another program.
    """
    record = Record()
    for line in current_lines(read_log(folder.log)):
        event, step = line.get("event"), line["step"]
        if event in ("start", "resume"):
            for name, kind in _START.items():
                if name not in line or not isinstance(line[name], kind):
                    raise RunError(
                        f"The run log {folder.log} cannot be replayed: its {event} line at step "
                        f"{step} does not say {name!r} as this release writes it."
                    )
            record.segments.append(Segment(line))
        elif event == "train" and "loss_bits" in line:
            record.losses[step] = claimed_bits(line, "loss")
        elif event == "eval" and "val_loss_bits" in line:
            record.val_losses[step] = claimed_bits(line, "val_loss")
        elif event == "checkpoint" and isinstance(line.get("tensors"), dict):
            record.tensors[step] = line["tensors"]
            record.optimizers[step] = str(line.get("optimizer_sha256"))
    if not record.segments or record.segments[0].first_step != 1:
        raise RunError(f"The run log {folder.log} has no beginning; nothing can be replayed.")
    return record


def claimed_bits(line: dict[str, Any], name: str) -> str:
    """Return the bits of a loss in a log line; where number and bits disagree, the number's."""
    try:
        bits = bits_of(float(line[name]))
    except (LookupError, TypeError, ValueError, OverflowError):
        return repr(line.get(name))
    return str(line[f"{name}_bits"]) if math.isnan(float(line[name])) else bits
