"""The process in which learners' code runs: `python -m tiny_transformer.course.worker FD`.

It imports PyTorch, then waits for a job, one line of JSON on its standard input; so a spare
one can be started ahead. Verdicts go to the file descriptor FD, a line of JSON each, and
what learners' code prints goes to standard output, where it disturbs nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import torch

import tiny_transformer.model.transformer  # noqa: F401 - the solutions need it: not while a job waits
from tiny_transformer.course.answers import install_answers, module_of
from tiny_transformer.course.catalogue import load_catalogue
from tiny_transformer.course.examination import examine

MEMORY = 4 << 30
"""Most bytes that learners' code may ask for (Linux)."""


def main() -> None:
    """Do one job and end."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # programs that learners' code starts do not need it
    torch.set_num_threads(1)
    catalogue = load_catalogue()
    job = json.loads(sys.stdin.readline())
    _limit_memory()
    folder = Path(job["folder"])
    install_answers(folder)
    if "hunt" in job:
        _examine_hunt(descriptor, job["hunt"], folder)
    for name in job.get("exercises", ()):
        exercise = catalogue.exercise(name)
        _tell(descriptor, {"begins": name})
        with contextlib.suppress(BaseException):  # told of by `examine`, which meets it again
            module_of(exercise)
        _tell(descriptor, {"imported": name})
        verdict = examine(exercise, catalogue.module_of(exercise), folder, theirs=job["theirs"])
        _tell(descriptor, {"verdict": verdict.to_dict()})
    _tell(descriptor, {"ends": True})
    os._exit(0)  # what learners' code left running does not matter


def _examine_hunt(descriptor: int, name: str, folder: Path) -> None:
    """Check the fix of a planted bug."""
    from tiny_transformer.course.hunt import find_hunt
    from tiny_transformer.course.hunt_check import examine_hunt

    _tell(descriptor, {"begins": name})
    _tell(descriptor, {"imported": name})
    _tell(descriptor, {"verdict": examine_hunt(find_hunt(name), folder).to_dict()})


def _tell(descriptor: int, message: dict[str, object]) -> None:
    os.write(descriptor, (json.dumps(message) + "\n").encode())


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
