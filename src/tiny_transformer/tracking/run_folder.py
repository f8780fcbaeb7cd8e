"""Where a run lies: `runs/<run_id>/`, made once, found by folder, id or checkpoint.

config.yaml  environment.json  vocab.json  log.jsonl
checkpoints/step-00000200/     samples/step-00000200.txt     parts/ (a user's own, if any)

`RUN/latest` and `RUN/best` stand for a checkpoint: they are looked up each time, so that
nothing can point to what is not there.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import CheckpointError, RunError, StorageError, suggest

_STEP = re.compile(r"step-(\d{8,})")
_REPLACED = re.compile(r"\.(step-\d{8,})\.[0-9a-f]+\.old")
_LEFT_OVER = re.compile(r"\.step-\d{8,}\.[0-9a-f]+\.(tmp|old|gone)")
_LOOKS = 20  # while a run is trained, the one that was listed may go as its successor comes
METADATA = "metadata.json"
_FIRST_FILES = ("config.yaml", "environment.json", "vocab.json")


def new_run_id() -> str:
    """Return the time (UTC) and six hex digits: `20260131-142530-9f3a1c`."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def create(cls, runs_dir: str | Path, run_name: str | None) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            RunError: a run of that name exists.
            StorageError: the folder cannot be made.
        """
        refuse_taken_name(runs_dir, run_name)
        path = files.make_directory(Path(runs_dir)) / (run_name or new_run_id())
        try:
            files.make_directory(path, exist_ok=False)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise RunError(f"The run {path} was made by somebody else just now.") from None
            raise
        return cls(path)

    @contextlib.contextmanager
    def removed_on_failure(self) -> Iterator[None]:
        """Remove the new folder if the block fails: what never began does not take the name."""
        try:
            yield
        except BaseException:
            files.discard(self.path)
            raise

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.path.resolve().name

    @property
    def log(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / "log.jsonl"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint at `step`."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def sample(self, step: int) -> Path:
        """Return the file of the sample text at `step`."""
        return self.path / "samples" / f"step-{step:08d}.txt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run, so that no other process trains it.

        Raises:
            RunError: another one does.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(
                f"The run {self.path} is being trained by another process. Wait until it has "
                "ended, or train a run of another name."
            ) from None
        except OSError as error:
            raise StorageError(f"{self.path} cannot be locked: {error.strerror}.") from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Return whether a process is training the run now."""
        if not (self.path / ".lock").exists():
            return False
        try:
            with self.locked():
                return False
        except RunError:
            return True

    def checkpoints(self) -> list[Path]:
        """Return the folders of all whole checkpoints, oldest step first.

        A checkpoint that was being replaced when the machine stopped is found under the
        name that it was moved aside to.
        """
        found: dict[str, Path] = {}
        for path in sorted((self.path / "checkpoints").glob("*step-*")):
            replaced = _REPLACED.fullmatch(path.name)
            if (replaced or _STEP.fullmatch(path.name)) and (path / METADATA).is_file():
                found[replaced[1] if replaced else path.name] = path  # `step-` comes last: it wins
        return sorted(found.values(), key=step_of)

    def recover(self) -> None:
        """Put back what was moved aside, and remove what a killed process left half done.

        The names of the files that a run begins with, its log's too, are safe after this.
        """
        folder = self.path / "checkpoints"
        for path in self.checkpoints():
            replaced = _REPLACED.fullmatch(path.name)
            if replaced:
                with files.explained(path):
                    files.os_replace(path, path.with_name(replaced[1]))
        files.sync_directory(self.path)
        left = [path for path in folder.glob(".step-*") if _LEFT_OVER.fullmatch(path.name)]
        if left:
            files.sync_directory(folder)  # they must not come back half removed
        for path in [*left, *self.path.glob(".*.tmp"), *self.path.glob("samples/.*.tmp")]:
            files.discard(path)
        for path in folder.glob("superseded-*"):
            if not any(path.iterdir()):  # the process died before it moved anything there
                files.discard(path)

    def supersede_after(self, step: int) -> Path | None:
        """Set the checkpoints after `step` aside: the run goes on from there in another way.

        Returns:
            The folder that they were moved to, or None where there were none.
        """
        later = [path for path in self.checkpoints() if step_of(path) > step]
        if not later:
            return None
        aside = self.path / "checkpoints" / f"superseded-{new_run_id()}"
        files.move_into(aside, reversed(later))
        return aside

    def best_checkpoint(self) -> Path:
        """Return the checkpoint with the best value of the metric that the config names.

        Raises:
            CheckpointError: no checkpoint has a finite value of it.
        """
        latest = self.latest_checkpoint()
        ranked = best_first(self.checkpoints())
        if not ranked:
            raise CheckpointError(
                f"No checkpoint of {self.path} has the metric that checkpoints.metric names, so "
                f"none is the best. The latest one is {latest}."
            )
        return ranked[0]

    def latest_checkpoint(self) -> Path:
        """Return the checkpoint of the highest step.

        Raises:
            CheckpointError: there is none.
        """
        for _ in range(_LOOKS):
            found = self.checkpoints()
            if found:
                return found[-1]
        raise CheckpointError(
            f"The run {self.path} has no checkpoint: it ended before its first one. Start "
            "again with a smaller --training.checkpoint-every."
        )


def record_files(run: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that a run writes once, for the log to keep."""
    return {
        name: hashlib.sha256((run / name).read_bytes()).hexdigest()
        for name in (*_FIRST_FILES, *sorted(f"parts/{p.name}" for p in run.glob("parts/*.py")))
        if (run / name).is_file()
    }


def refuse_taken_name(runs_dir: str | Path, run_name: str | None) -> None:
    """Raise `RunError` if there is a run of that name; None is always free."""
    path = Path(runs_dir) / (run_name or "")
    if run_name and os.path.lexists(path):
        raise RunError(
            f"The run {path} exists already, and nothing in it was changed. Choose another "
            f"--run-name, or go on with it: tiny resume {path}"
        )


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint folder's name."""
    return int(checkpoint.name.split("step-")[1].split(".")[0])


def best_first(checkpoints: Iterable[Path]) -> list[Path]:
    """Return the checkpoints that have a metric, the best first, of equal ones the later."""
    scored = [(score, -step_of(p), p) for p in checkpoints if (score := score_of(p)) is not None]
    return [path for *_, path in sorted(scored)]


def score_of(checkpoint: Path) -> float | None:
    """Return how a checkpoint ranks, smaller being better, or None without a finite metric."""
    try:
        record: dict[str, Any] = json.loads((checkpoint / METADATA).read_text(encoding="utf-8"))
        value = float(record["metrics"][record["rank"]["metric"]])
        sign = -1 if record["rank"]["mode"] == "max" else 1
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return sign * value if math.isfinite(value) else None


def _run_of(checkpoint: Path) -> Path:
    """Return the run that a checkpoint lies in, also one that was set aside."""
    parents = checkpoint.resolve().parents
    return parents[2] if parents[0].name.startswith("superseded-") else parents[1]


def find_run(reference: str | Path, runs_dir: str | Path = "runs") -> tuple[RunFolder, Path]:
    """Find a run and one of its checkpoints.

    Args:
        reference: a run's folder, a run id below `runs_dir`, or a checkpoint's folder; a
            run followed by `/latest` or `/best` names that checkpoint of it.
        runs_dir: where run ids are looked up.

    Returns:
        The run's folder and the checkpoint: the one given, else the latest.

    Raises:
        RunError: nothing of that name is a run.
        CheckpointError: the run has no checkpoint.
    """
    which = Path(reference).name
    if which in ("latest", "best") and Path(reference) != Path(which):
        run = Path(reference).parent
        run = run.parent if run.name == "checkpoints" else run
        folder, latest = find_run(run, runs_dir)
        return folder, latest if which == "latest" else folder.best_checkpoint()
    with contextlib.suppress(OSError):  # for instance a name that is too long for any file
        for path in (Path(reference), Path(runs_dir) / reference):
            if (path / METADATA).is_file():
                return RunFolder(_run_of(path)), path
            if (path / "config.yaml").is_file() or (path / "checkpoints").is_dir():
                folder = RunFolder(path)
                return folder, folder.latest_checkpoint()
    known = sorted(p.parent.name for p in Path(runs_dir).glob("*/config.yaml"))
    hint = suggest(str(reference), known) if known else "Train one first: tiny train --config tiny"
    raise RunError(
        f"There is no run {str(reference)!r}, neither as a folder nor in {runs_dir}/. {hint}"
    )
