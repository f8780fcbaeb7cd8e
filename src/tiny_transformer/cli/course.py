"""`tiny course`: exercises that are written in one's own files, and checked.

A subcommand is a dataclass of flags with a method `run`, in a file `course_*.py`; `COMMANDS`
names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tyro

from tiny_transformer.cli.course_check import Check
from tiny_transformer.cli.course_compare import Compare
from tiny_transformer.cli.course_hint import Hint, Solution
from tiny_transformer.cli.course_hunt import BugHunt
from tiny_transformer.cli.course_list import ListExercises
from tiny_transformer.cli.course_watch import Watch
from tiny_transformer.cli.course_workspace import Init, Reset


class Command(Protocol):
    """A subcommand, parsed."""

    def run(self) -> int:
        """Do it; return the exit status."""
        ...


@dataclass(frozen=True)
class TrainParts:
    """Train the model on the parts that you wrote: tiny course train --help."""


COMMANDS: dict[str, Callable[..., Any]] = {
    "init": Init,
    "list": ListExercises,
    "check": Check,
    "watch": Watch,
    "hint": Hint,
    "solution": Solution,
    "reset": Reset,
    "compare": Compare,
    "train": TrainParts,
    "bug-hunt": BugHunt,
}


def main(arguments: Sequence[str]) -> int:
    """Run `tiny course` with the words after it; return the exit status.

    It is 1 where a check was made and an answer does not pass.
    """
    if list(arguments[:1]) == ["train"]:  # its flags are those of `tiny train`, and as many
        from tiny_transformer.cli import course_train

        return course_train.main(arguments[1:])
    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=list(arguments),
        prog="tiny course",
        description="Learn by writing each part of a transformer. Begin with: tiny course init",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return command.run()
