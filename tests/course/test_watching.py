"""What is saved is checked, keys are obeyed, and the terminal is put back as it was."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.course.conftest import InProcess
from tests.course.made_up import STUB_SUMS, answer

from tiny_transformer.cli import course_watch
from tiny_transformer.course.catalogue import Catalogue, Exercise
from tiny_transformer.course.content import CourseError
from tiny_transformer.course.progress import Progress
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.course.watching import KEYS, Watcher
from tiny_transformer.runtime.errors import StorageError


class Recorded:
    """A screen that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def checking(self, exercises: Sequence[Exercise]) -> None:
        self.told.append("check " + " ".join(exercise.id for exercise in exercises))

    def verdict(self, verdict: Verdict) -> None:
        self.told.append(f"{verdict.exercise}: {verdict.status}")

    def printed(self, output: str) -> None:
        if output:
            self.told.append(f"printed {output}")

    def hint(self, exercise: Exercise, shown: int) -> None:
        self.told.append(f"hint {shown} {exercise.id}")

    def progress(self) -> None:
        self.told.append("list")

    def say(self, text: str) -> None:
        self.told.append(text)

    def since(self) -> list[str]:
        """Return what was told since the last call."""
        told, self.told = self.told, []
        return told


class Desk:
    """A learner at work: edits files and presses keys, as the loop waits."""

    def __init__(self, workspace: Path, catalogue: Catalogue) -> None:
        self.workspace = workspace
        self.screen = Recorded()
        self.grader = InProcess()
        self.progress = Progress(workspace)
        self.watcher = Watcher(workspace, catalogue, self.progress, self.grader, self.screen)

    def save(self, text: str, name: str = "sums.py") -> list[str]:
        """Save a file, and let the loop look until it has come to rest."""
        (self.workspace / name).write_text(text)
        for _ in range(2):
            self.watcher.look()
        return self.screen.since()

    def press(self, keys: str) -> list[str]:
        assert all(self.watcher.press(key) for key in keys)
        return self.screen.since()


@pytest.fixture
def desk(workspace: Path, catalogue: Catalogue) -> Desk:
    return Desk(workspace, catalogue)


RIGHT = answer("double", "return x * 2")


@pytest.mark.requirement("course.watch")
def test_a_save_is_checked_and_the_next_exercise_follows(desk: Desk) -> None:
    desk.watcher.check()
    assert desk.screen.since() == ["check twice", "twice: not attempted"]
    assert desk.save(answer("double", "return x")) == ["check twice", "twice: wrong"]
    checked, verdict, following = desk.save(RIGHT)
    assert (checked, verdict) == ("check twice", "twice: passed")
    assert following.startswith("Next: total, ")
    assert desk.save(RIGHT) == []  # nothing changed
    assert Progress(desk.workspace).entry(desk.watcher.current or pytest.fail()).attempts == 0


@pytest.mark.requirement("course.watch")
def test_the_saved_files_exercise_is_the_one_that_is_checked(desk: Desk) -> None:
    text = STUB_SUMS.replace('raise NotImplementedError("total")', "return x.sum(0)")
    assert desk.save(text)[:2] == ["check total", "total: wrong"]
    assert desk.watcher.current is not None and desk.watcher.current.id == "total"
    # The file is no Python for a while: the exercise that is worked at tells so.
    assert desk.save("def (")[:2] == ["check total", "total: raised"]
    # Only what changed is checked.
    both = text.replace("sum(0)", "sum(-1)").replace(
        'raise NotImplementedError("mean")', "return total(x) / 3"
    )
    told = desk.save(both)
    assert told[:3] == ["check total mean", "total: passed", "mean: passed"]
    # A change outside every exercise checks the one that is worked at.
    assert desk.watcher.current is not None and desk.watcher.current.id == "scale"
    assert desk.save("import os\n", "helper.py") == ["check scale", "scale: not attempted"]
    # If that is in another file, the first in the saved file that has not passed.
    assert desk.save("# a note\n" + both) == ["check twice", "twice: not attempted"]
    layers = (desk.workspace / "layers.py").read_text()
    desk.watcher.current = None
    assert desk.save(layers + "# more\n", "layers.py")[0] == "check scale"


@pytest.mark.requirement("course.watch")
def test_a_file_is_read_once_it_has_come_to_rest(desk: Desk) -> None:
    path = desk.workspace / "sums.py"
    for part in (RIGHT[:100], RIGHT[:200]):
        path.write_text(part)
        desk.watcher.look()
    assert desk.screen.since() == []
    assert desk.save(RIGHT)[:2] == ["check twice", "twice: passed"]


@pytest.mark.requirement("course.watch")
def test_two_saves_of_one_size_and_time_are_two(desk: Desk) -> None:
    for body, status in (("return x * 2", "passed"), ("return x * 3", "wrong")) * 2:
        text = answer("double", body)
        (desk.workspace / "sums.py").write_text(text)
        os.utime(desk.workspace / "sums.py", (10**9, 10**9))
        assert desk.save(text)[1] == f"twice: {status}"


@pytest.mark.requirement("course.watch")
def test_keys(desk: Desk) -> None:
    assert desk.press("hhhh") == [f"hint {n} twice" for n in (1, 2, 3, 3)]
    assert desk.press("l") == ["list"]
    assert desk.press("?") == [KEYS]
    assert desk.press("n") == ["check total", "total: not attempted"]
    assert desk.press("\n") == ["check total", "total: not attempted"]
    assert not desk.watcher.press("q")


@pytest.mark.requirement("course.watch")
def test_reset_asks_once_more(desk: Desk) -> None:
    desk.save(RIGHT)
    desk.press("nnn")
    assert desk.watcher.current is not None and desk.watcher.current.id == "total"
    desk.save(RIGHT.replace('raise NotImplementedError("total")', "return 1"))
    assert "once more" in desk.press("r")[0]
    assert "once more" in desk.press("lr")[1]  # another key in between: asked again
    (told,) = desk.press("r")
    assert told.startswith("The stub of total is back. Your file as it was: ")
    assert (desk.workspace / "sums.py").read_text() == RIGHT
    desk.watcher.look()
    desk.watcher.look()
    assert desk.screen.since() == []
    (desk.workspace / "sums.py").write_text("def (")
    assert "--file" in desk.press("rr")[1]


@pytest.mark.requirement("course.watch")
def test_when_everything_has_passed(desk: Desk, catalogue: Catalogue) -> None:
    for exercise in catalogue:
        desk.progress.record(exercise, Verdict(exercise.id, "passed"))
    desk.watcher.current = catalogue.exercise("scale")
    desk.press("n")
    assert desk.watcher.current is None
    assert desk.press("hrcn") == ["Every exercise has passed."] * 4
    assert desk.save(RIGHT)[-1] == "Every exercise has passed."


def test_what_goes_wrong_is_said_and_the_loop_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.")

    desk.grader.output = "so"
    monkeypatch.setattr(Progress, "update", fail)
    told = desk.save(answer("double", "return 3"))
    assert told[1] == "Your progress could not be saved. The disk is full."
    assert told[2:] == ["twice: wrong", "printed so"]
    assert desk.press("h") == ["The disk is full."]

    def refuse(*_: object, **__: object) -> None:
        raise CourseError("The checker could not start.")

    monkeypatch.setattr(desk.grader, "grade", refuse)
    assert desk.press("c") == ["check twice", "The checker could not start."]


def test_the_loop_checks_first_and_ends_with_q(desk: Desk) -> None:
    def save() -> str:
        (desk.workspace / "sums.py").write_text(RIGHT)
        return ""

    steps: list[Callable[[], str]] = [
        lambda: "",
        save,
        lambda: "",
        lambda: "l",
        lambda: "qh",
    ]
    desk.watcher.run(lambda seconds: steps.pop(0)())
    assert desk.screen.since() == [
        *("check twice", "twice: not attempted", "check twice", "twice: passed"),
        *("Next: total, The sum of a row (10 minutes): write total in sums.py and save.", "list"),
    ]
    assert steps == []


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Make standard input a terminal; return both of its ends."""
    outer, inner = pty.openpty()
    with os.fdopen(inner, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield outer, inner
    os.close(outer)


@pytest.mark.requirement("course.watch-terminal")
@pytest.mark.parametrize("end", [None, KeyboardInterrupt, CourseError, signal.SIGTERM])
def test_the_terminal_is_put_back_however_it_ends(
    terminal: tuple[int, int], end: type[BaseException] | signal.Signals | None
) -> None:
    outer, inner = terminal
    before = termios.tcgetattr(inner)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCONT)]

    def work() -> None:
        with course_watch.keys() as wait:
            assert not termios.tcgetattr(inner)[3] & termios.ICANON
            os.write(outer, b"h")
            assert wait(5) == "h"
            assert wait(0) == ""
            termios.tcsetattr(inner, termios.TCSANOW, before)  # what a shell does meanwhile
            os.kill(os.getpid(), signal.SIGCONT)
            assert not termios.tcgetattr(inner)[3] & termios.ICANON
            if isinstance(end, signal.Signals):
                os.kill(os.getpid(), end)
                time.sleep(5)
            elif end is not None:
                raise end

    if end is None:
        work()
    else:
        with pytest.raises(end if isinstance(end, type) else KeyboardInterrupt):
            work()
    assert termios.tcgetattr(inner) == before
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGCONT)] == handlers


def test_keys_may_come_through_a_pipe_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        with course_watch.keys() as wait:
            os.write(writer, b"hl")
            os.close(writer)
            assert [wait(1), wait(1), wait(0.01)] == ["hl", "", ""]


@pytest.mark.slow
@pytest.mark.requirement("course.watch-terminal")
def test_the_command_in_a_terminal(workspace: Path) -> None:
    """From the first check to q: a save is seen, and the terminal is as it was."""
    outer, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    process = subprocess.Popen(
        [sys.executable, "-m", "tiny_transformer", "course", "watch"],
        stdin=inner, stdout=inner, stderr=inner,
        cwd=workspace, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    try:
        shown = read_until(outer, "twice is not written yet")
        assert "h hint" in shown
        (workspace / "sums.py").write_text(answer("double", "return x + 2"))
        shown = read_until(outer, "add two instead")
        assert "is not right yet" in shown and "expected" in shown
        os.write(outer, b"q")
        assert process.wait(timeout=60) == 0
        assert termios.tcgetattr(inner) == before
    finally:
        process.kill()
        process.wait()
        os.close(outer)
        os.close(inner)


def read_until(descriptor: int, text: str) -> str:
    shown, until = "", time.monotonic() + 120
    while text not in shown and time.monotonic() < until:
        if select.select([descriptor], [], [], 1)[0]:
            shown += os.read(descriptor, 1 << 16).decode("utf-8", "replace")
    assert text in shown, shown
    return shown
