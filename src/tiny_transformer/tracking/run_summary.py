"""What a run's record says of it, read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tiny_transformer.runtime.errors import RunError, suggest
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import current_lines, metric_by_step, read_log

_ENDS = {"end": "complete", "interrupted": "interrupted", "diverged": "diverged"}


@dataclass(frozen=True)
class RunSummary:
    """One run, as `tiny runs` tells of it; None where the log does not say.

    Attributes:
        status: `complete`, `interrupted`, `diverged`, `failed`, `training` (a process is at
            it), or `stopped` (it ended without a word).
        started: time of the first start, UTC.
        step: updates made.
        train_loss: mean of the last tenth of the training losses.
        val_loss: the last one.
        best_val_loss: the smallest one, at `best_step`.
        tokens_per_second: median over the training lines.
    """

    run_id: str
    status: str
    started: str | None
    step: int
    max_steps: int | None
    train_loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    best_step: int | None
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
    starts = [line for line in lines if line.get("event") in ("start", "resume")]
    last: dict[str, Any] = starts[-1] if starts else {}
    train = metric_by_step(lines, "train", "loss")
    val = metric_by_step(lines, "eval", "val_loss")
    speed = metric_by_step(lines, "train", "tokens_per_second")
    tail = list(train.values())[-max(1, len(train) // 10) :]
    best = min(val, key=lambda step: val[step]) if val else None
    return RunSummary(
        run_id=folder.run_id,
        status=_status(folder, lines),
        started=starts[0].get("time") if starts else None,
        step=max([line["step"] for line in lines if line.get("event") != "diverged"], default=0),
        max_steps=last.get("max_steps"),
        train_loss=sum(tail) / len(tail) if tail else None,
        val_loss=val[max(val)] if val else None,
        best_val_loss=None if best is None else val[best],
        best_step=best,
        tokens_per_second=median(speed.values()) if speed else None,
        n_parameters=last.get("n_parameters"),
        corpus=last.get("corpus"),
        seed=last.get("seed"),
        device=last.get("device"),
        precision=last.get("precision"),
        hooks=tuple(h["name"] for h in last.get("hooks", []) if h.get("enabled", True)),
        config_hash=last.get("config_hash"),
        git_commit=last.get("git_commit"),
        git_dirty=last.get("git_dirty"),
        data_fingerprint=last.get("data_fingerprint"),
        checkpoints=tuple(int(p.name[5:]) for p in folder.checkpoints() if p.name[:5] == "step-"),
        resumed=len(starts) - 1 if starts else 0,
    )


def _status(folder: RunFolder, lines: list[dict[str, Any]]) -> str:
    if folder.is_locked():
        return "training"
    event = lines[-1].get("event", "") if lines else ""
    return "failed" if event == "failed" else _ENDS.get(event, "stopped")


def run_folders(runs_dir: str | Path) -> list[RunFolder]:
    """Return all runs below a folder that have a log, in the order of their names."""
    return [RunFolder(path.parent) for path in sorted(Path(runs_dir).glob("*/log.jsonl"))]


def find_folder(reference: str | Path, runs_dir: str | Path = "runs") -> RunFolder:
    """Return the run of a folder or an id; unlike `find_run` it needs no checkpoint.

    Raises:
        RunError: nothing of that name is a run.
    """
    for path in (Path(reference), Path(runs_dir) / reference):
        if (path / "log.jsonl").is_file():
            return RunFolder(path)
    known = [folder.run_id for folder in run_folders(runs_dir)]
    hint = suggest(str(reference), known) if known else "Train one first: tiny train --config tiny"
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
    flat = {run: dict(_flat(settings)) for run, settings in runs.items()}
    names = list(dict.fromkeys(name for settings in flat.values() for name in settings))
    return {
        name: {run: settings.get(name) for run, settings in flat.items()}
        for name in names
        if name not in ("run_name", "runs_dir", "training.stop_at")
        and len({repr(settings.get(name)) for settings in flat.values()}) > 1
    }


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
