"""`tiny convert`: a checkpoint from one file to shards, or back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tiny_transformer.cli.options import FlatRun, parse
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.tracking.run_folder import find_run
from tiny_transformer.training.conversion import convert_checkpoint


@dataclass(frozen=True)
class Convert:
    """Put a run's latest checkpoint, or the one named, into another layout, in its place."""

    run: FlatRun
    to: Literal["whole", "sharded"]
    """whole has the weights in one file; sharded spreads them, as --distributed.strategy fsdp."""
    files: int = 2
    """Files of a sharded checkpoint, for its weights and again for its optimizer state."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Convert, arguments, "convert")
    if options.files < 1:
        raise ConfigError(f"--files is {options.files}; it must be at least 1.")
    folder, path = find_run(options.run.run, options.run.runs_dir)
    with folder.locked():
        convert_checkpoint(path, None if options.to == "whole" else options.files)
    print(f"{path} is {options.to} now. Check it: tiny runs verify {shlex.quote(str(folder.path))}")
    return 0
