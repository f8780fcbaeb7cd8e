"""What several commands share: parsing by tyro, and the run that a command is about."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import tyro

from tiny_transformer.runtime.launch import has_speaker

T = TypeVar("T")


@dataclass(frozen=True)
class RunReference:
    """Which run."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run's folder, a run id, or a checkpoint's folder."""
    runs_dir: str = "runs"
    """Where run ids are looked up."""


Device = Annotated[str, tyro.conf.arg(aliases=("--training.device",))]
"""The long name is the config's, which messages use."""

FlatRun = Annotated[RunReference, tyro.conf.OmitArgPrefixes]


def parse(kind: type[T], arguments: Sequence[str], command: str, **options: Any) -> T:
    """Parse `arguments` into the dataclass `kind`; a wrong flag ends with exit status 2."""
    with contextlib.ExitStack() as stack:
        if has_speaker():
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        return tyro.cli(
            kind,
            args=list(arguments),
            prog=f"tiny {command}",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
            **options,
        )
