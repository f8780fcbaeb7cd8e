"""Grade answers in a child process, which nothing that they do can bring out of it.

An endless loop meets a time limit, `sys.exit` and a segmentation fault end the child and not
the course, what it prints is read and thrown away beyond a little, and what it starts is
ended with it. A spare child, with PyTorch imported, may wait for the next job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tiny_transformer.course.catalogue import Exercise
from tiny_transformer.course.content import CourseError
from tiny_transformer.course.verdict import Verdict

TIME_LIMIT = 20.0
"""Seconds that one exercise may take."""
START_LIMIT = 60.0
"""Seconds that a child may take to import PyTorch."""
MOST_OUTPUT = 4000
"""Characters kept of what learners' code prints."""
_POLL = 0.2  # seconds between two looks at whether the child still runs
_MARK = "TINY_TRANSFORMER_COURSE_JOB"


@dataclass(frozen=True)
class Report:
    """What became of a job.

    Attributes:
        verdicts: one an exercise, in the order asked for.
        output: the first of what the answers printed.
    """

    verdicts: tuple[Verdict, ...]
    output: str


class Task(Protocol):
    """What is graded: an exercise, or a bug hunt."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def file(self) -> str:
        """The file that it is about."""
        ...


class _Child:
    """A worker process, and the pipes to it."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self._mark = f"{_MARK}={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            # -P: no file of the current folder, as a learner's random.py, hides a library.
            [sys.executable, "-P", "-m", "tiny_transformer.course.worker", str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            env={**os.environ, name: value},
            start_new_session=True,  # so that what it starts can be ended with it
        )
        os.close(writer)
        self.reader = reader
        self.output = bytearray()
        self.deadline = float("inf")
        self._ended = False
        self._drain = threading.Thread(target=self._read_output, daemon=True)
        self._drain.start()

    def send(self, job: dict[str, object]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write((json.dumps(job) + "\n").encode())
            self.process.stdin.close()
        self.deadline = time.monotonic() + START_LIMIT

    def lines(self) -> Iterator[bytes]:
        """Yield the lines it tells, until it has ended or the deadline has passed."""
        held = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.reader, selectors.EVENT_READ)
            while (left := self.deadline - time.monotonic()) > 0:
                # Processes that it started may hold the pipe open after its end.
                ended = self.process.poll() is not None
                if not selector.select(0 if ended else min(left, _POLL)):
                    if ended:
                        return
                    continue
                chunk = os.read(self.reader, 1 << 16)
                if not chunk:
                    return
                *lines, held = (held + chunk).split(b"\n")
                yield from lines

    def status(self) -> int | None:
        """Return its exit status; None if it runs on although it tells nothing any more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=1)
        return None

    def end(self) -> None:
        """Kill it and all that it started; ending twice is allowed."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _kill_marked(self._mark)
        self._drain.join(timeout=1)
        os.close(self.reader)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # it is closed where a reader holds on
            while chunk := os.read(self.process.stdout.fileno(), 1 << 16):
                if len(self.output) < MOST_OUTPUT:
                    self.output += chunk[: MOST_OUTPUT - len(self.output)]


def _kill_marked(mark: str) -> None:
    """Kill processes that left the child's session; they still have its environment (Linux)."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in environment.read_bytes().split(b"\0"):
                os.kill(int(environment.parent.name), signal.SIGKILL)


class Grader:
    """Grades jobs one after another.

    Args:
        spare: keep a child ready for the next job, so that it need not wait for imports.
        time_limit: seconds for one exercise.
    """

    def __init__(self, *, spare: bool = False, time_limit: float = TIME_LIMIT) -> None:
        self._keep_spare = spare
        self._time_limit = time_limit
        self._spare = _Child() if spare else None

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the spare child."""
        if self._spare is not None:
            self._spare.end()
            self._spare = None

    def grade(
        self,
        folder: Path,
        exercises: Sequence[Exercise],
        *,
        theirs: bool = True,
        on_verdict: Callable[[Verdict], None] = lambda verdict: None,
    ) -> Report:
        """Examine exercises on the answers in `folder`.

        Args:
            folder: the workspace.
            exercises: which, in order.
            theirs: ask that answers stand in the folder.
            on_verdict: called with each as it is known.
        """
        verdicts: list[Verdict] = []
        output = ""
        while len(verdicts) < len(exercises):
            rest = exercises[len(verdicts) :]
            child, self._spare = self._spare or _Child(), None
            try:
                names = [exercise.id for exercise in rest]
                child.send({"folder": str(folder.resolve()), "exercises": names, "theirs": theirs})
                for verdict in self._listen(child, rest):
                    verdicts.append(verdict)
                    on_verdict(verdict)
            finally:
                child.end()
                output += bytes(child.output).decode("utf-8", "replace")
                if self._keep_spare:
                    self._spare = _Child()
        return Report(tuple(verdicts), output[:MOST_OUTPUT])

    def grade_hunt(self, folder: Path, hunt: Task) -> Report:
        """Check the fix of a planted bug.

        Args:
            folder: the model's files.
            hunt: which bug.
        """
        child, self._spare = self._spare or _Child(), None
        try:
            child.send({"folder": str(folder.resolve()), "hunt": hunt.id})
            verdicts = tuple(self._listen(child, [hunt]))
        finally:
            child.end()
        output = bytes(child.output).decode("utf-8", "replace")
        return Report(verdicts, output[:MOST_OUTPUT])

    def _listen(self, child: _Child, exercises: Sequence[Task]) -> Iterator[Verdict]:
        """Yield the verdicts of a child; the last tells if it was stopped, or ended by itself."""
        waiting = list(exercises)
        begun = imported = False
        for line in child.lines():
            message = json.loads(line)
            if "begins" in message:
                begun, imported = True, False
                child.deadline = time.monotonic() + self._time_limit
            elif "imported" in message:
                imported = True
            elif "verdict" in message:
                begun = False
                waiting.pop(0)
                yield Verdict.from_dict(message["verdict"])
            else:
                return
        in_time = time.monotonic() < child.deadline
        if not begun:
            raise CourseError(_not_started(child, in_time))
        if in_time:
            ended = Verdict(waiting[0].id, "crashed", message=_why(child.status()))
        else:
            text = (
                f"It was stopped after {self._time_limit:g} seconds: is there a loop that never "
                "ends, or far too much work?"
            )
            ended = Verdict(waiting[0].id, "timed out", message=text)
        # A file that cannot even be imported would do the same to the exercises after this one.
        same = itertools.takewhile(lambda other: other.file == waiting[0].file, waiting)
        for exercise in [waiting[0]] if imported else same:
            yield dataclasses.replace(
                ended, exercise=exercise.id, test="" if imported else "is imported"
            )


def _not_started(child: _Child, in_time: bool) -> str:
    if not in_time:
        return f"The checker did not start within {START_LIMIT:g} seconds; try again."
    child.end()
    last = bytes(child.output).decode("utf-8", "replace").strip().splitlines()[-1:]
    return f"The checker could not start. {' '.join(last)}".rstrip()


def _why(status: int | None) -> str:
    if status is None:
        return "Your code closed the files through which the checker is told."
    if status < 0:
        name = signal.Signals(-status).name
        what = {"SIGSEGV": "a segmentation fault", "SIGKILL": "killed, perhaps for its memory"}
        return f"Your code ended the whole process ({what.get(name, name)})."
    return f"Your code ended the whole process (exit status {status})."
