"""How several processes begin to train one run: alike, and after a restart where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tiny_transformer.config import Config
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.distributed import Ranks, job_id
from tiny_transformer.runtime.environment import package_version
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.tracking.run_summary import flat_settings
from tiny_transformer.training.checkpoint import Checkpoint
from tiny_transformer.training.written_parts import describe_parts


def default_reporter(ranks: Ranks) -> ConsoleReporter:
    """Return a reporter that shows progress on the first rank, and nothing on others."""
    return ConsoleReporter(None if ranks.first else Console(quiet=True))


def refuse_other_setup(ranks: Ranks, config: Config, parts: Parts | None) -> None:
    """Refuse ranks whose settings, parts or packages are not the first one's.

    Raises:
        RanksError: names the rank and what differs.
    """
    if ranks.count == 1:
        return
    ranks.refuse_differences(
        "settings",
        dict(flat_settings(config.to_dict())),
        "Start all ranks with the same command and files.",
    )
    packages = {name: package_version(name) for name in ("tiny-transformer", "torch")}
    ranks.refuse_differences("packages", packages, "Install the same versions on all machines.")
    written = {"the parts": describe_parts(parts)}
    ranks.refuse_differences("parts", written, "Put the same files on all machines.")


def refuse_other_checkpoint(ranks: Ranks, checkpoint: Checkpoint) -> None:
    """Refuse ranks that see another checkpoint than the first one.

    Raises:
        RanksError: names the rank.
    """
    seen = {"the checkpoint": checkpoint.path.name, "its content": checkpoint.metadata["sha256"]}
    ranks.refuse_differences(
        "views of the run", seen, "Put --runs-dir on storage that all machines share."
    )


@dataclass(frozen=True)
class Begun:
    """A run that an earlier start of the same torchrun began.

    Attributes:
        path: its folder.
        has_checkpoint: whether there is something to go on from.
        complete: whether it has ended, so that nothing is left to do.
    """

    path: Path
    has_checkpoint: bool
    complete: bool


def find_begun(config: Config) -> Begun | None:
    """Return the run that this torchrun has begun already, if it is starting again."""
    job = job_id()
    if job is None:
        return None
    names = [config.run_name] if config.run_name else ["*"]
    found = [
        path.parent
        for name in names
        for path in Path(config.runs_dir).glob(f"{name}/environment.json")
        if _job_of(path) == job
    ]
    if not found:
        return None
    folder = RunFolder(max(found, key=lambda path: (path.stat().st_mtime, path.name)))
    lines = read_log(folder.log) if folder.log.is_file() else []
    ended = bool(lines) and lines[-1].get("event") == "end"
    complete = ended and lines[-1].get("step") == config.training.last_step
    return Begun(folder.path, bool(folder.checkpoints()), complete)


def _job_of(file: Path) -> Any:
    try:
        environment = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return environment.get("job") if isinstance(environment, dict) else None
