"""Where a run lies: `runs/<run_id>/`, made once, found by folder, id or checkpoint.

config.yaml  environment.json  vocab.json  log.jsonl
checkpoints/step-00000200/     samples/step-00000200.txt
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import CheckpointError, RunError, StorageError, suggest

_STEP = re.compile(r"step-(\d{8,})")
METADATA = "metadata.json"


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
        except StorageError:
            if path.exists():
                raise RunError(f"The run {path} was made by somebody else just now.") from None
            raise
        return cls(path)

    @contextlib.contextmanager
    def removed_on_failure(self) -> Iterator[None]:
        """Remove the new folder if the block fails: what never began does not take the name."""
        try:
            yield
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
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

    def checkpoints(self) -> list[Path]:
        """Return the folders of all whole checkpoints, oldest step first."""
        found = [
            path
            for path in (self.path / "checkpoints").glob("step-*")
            if _STEP.fullmatch(path.name) and (path / METADATA).is_file()
        ]
        return sorted(found, key=step_of)

    def latest_checkpoint(self) -> Path:
        """Return the checkpoint of the highest step.

        Raises:
            CheckpointError: there is none.
        """
        found = self.checkpoints()
        if not found:
            raise CheckpointError(
                f"The run {self.path} has no checkpoint: it ended before its first one. Start "
                "again with a smaller --training.checkpoint-every."
            )
        return found[-1]


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
    return int(checkpoint.name.removeprefix("step-"))


def find_run(reference: str | Path, runs_dir: str | Path = "runs") -> tuple[RunFolder, Path]:
    """Find a run and one of its checkpoints.

    Args:
        reference: a run's folder, a run id below `runs_dir`, or a checkpoint's folder.
        runs_dir: where run ids are looked up.

    Returns:
        The run's folder and the checkpoint: the one given, else the latest.

    Raises:
        RunError: nothing of that name is a run.
        CheckpointError: the run has no checkpoint.
    """
    with contextlib.suppress(OSError):  # for instance a name that is too long for any file
        for path in (Path(reference), Path(runs_dir) / reference):
            if (path / METADATA).is_file():
                return RunFolder(path.resolve().parents[1]), path
            if (path / "config.yaml").is_file() or (path / "checkpoints").is_dir():
                folder = RunFolder(path)
                return folder, folder.latest_checkpoint()
    known = sorted(p.parent.name for p in Path(runs_dir).glob("*/config.yaml"))
    hint = suggest(str(reference), known) if known else "Train one first: tiny train --config tiny"
    raise RunError(
        f"There is no run {str(reference)!r}, neither as a folder nor in {runs_dir}/. {hint}"
    )
