"""Nothing that an answer does takes the checker down: real child processes, few of them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from tests.course.made_up import answer

from tiny_transformer.course import grading
from tiny_transformer.course.catalogue import Catalogue, load_catalogue
from tiny_transformer.course.content import VARIABLE, CourseError
from tiny_transformer.course.grading import Grader, Report
from tiny_transformer.course.verdict import Verdict

# What each function does; all should return 1. Those that end the process come last.
HOSTILE = {
    "sys_exit": "sys.exit(3)",
    "interrupts": "raise KeyboardInterrupt",
    "without_text": "raise Mute",
    "asks": "return input()",
    "prints": "print('x' * 10**8)\nreturn 1",
    "hoards": "return torch.zeros(6 << 30, dtype=torch.uint8).sum().item()",
    "starts": (
        "for new_session in (False, True):\n"
        "    leave(subprocess.Popen(['sleep', '600'], start_new_session=new_session).pid)\n"
        "return 1"
    ),
    "loops": "while True: pass",
    "ends": "os._exit(7)",
    "crashes": "ctypes.string_at(0)",
    "forks": "child = os.fork()\nif not child: time.sleep(600)\nleave(child)\nos._exit(4)",
    "is_fine": "return 1",
}
TOP = """
import ctypes, os, subprocess, sys, time
from pathlib import Path

import torch

class Mute(Exception):
    def __str__(self):
        raise ValueError

def leave(pid):
    with Path(__file__).with_name("pids").open("a") as file:
        file.write(f"{pid}\\n")
"""


def exercise(name: str, file: str) -> str:
    return (
        f"  - {{id: {name}, title: t, file: {file}, function: {name}, difficulty: easy, "
        f"minutes: 1, hints: [a, b, c], explanation: e, source: s}}\n"
    )


def define(name: str, body: str) -> str:
    return f"\ndef {name}():\n" + "".join(f"    {line}\n" for line in body.splitlines())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[int], Path]:
    """Grade everything in one job; a child is needed anew only where one was ended."""
    folder = tmp_path_factory.mktemp("hostile")
    module, workspace = folder / "course" / "01_hostile", folder / "my"
    module.mkdir(parents=True)
    workspace.mkdir()
    manifest = "title: Hostile\nhours: 1\nexercises:\n"
    manifest += "".join(exercise(name, "acts.py") for name in HOSTILE)
    manifest += exercise("first", "dies.py") + exercise("second", "dies.py")
    (module / "module.yaml").write_text(manifest)
    files = {**dict.fromkeys(HOSTILE, "acts"), "first": "dies", "second": "dies"}
    (module / "test_acts.py").write_text(
        "from my_transformer import acts\n"
        "from tiny_transformer.course.expect import expect_equal\n"
        + "".join(
            define(f"test_{n}__one", f"expect_equal(acts.{n}(), 1, '{n}()')") for n in HOSTILE
        )
    )
    (module / "test_dies.py").write_text(
        "from my_transformer import dies\n"
        + "".join(define(f"test_{n}__one", f"dies.{n}()") for n in files if files[n] == "dies")
    )
    (module / "wrong_answers.py").write_text("")
    acts = "".join(define(name, body) for name, body in HOSTILE.items())
    (workspace / "acts.py").write_text(TOP + acts)
    (workspace / "dies.py").write_text("import os\nos._exit(5)\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(module.parent))
        patch.chdir(workspace)
        (workspace / "random.py").write_text("raise ImportError('it hid the library')\n")
        started: list[int] = []
        real = grading._Child.__init__

        def counted(self: grading._Child) -> None:
            real(self)
            started.append(self.process.pid)

        patch.setattr(grading._Child, "__init__", counted)
        with Grader(time_limit=8) as grader:
            report = grader.grade(workspace, tuple(load_catalogue()))
    return report, started, workspace


def verdict_on(report: Report, name: str) -> Verdict:
    return next(verdict for verdict in report.verdicts if verdict.exercise == name)


@pytest.mark.slow
@pytest.mark.requirement("course.child")
@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("sys_exit", "raised", "SystemExit: 3"),
        ("interrupts", "raised", "KeyboardInterrupt"),
        ("without_text", "raised", "Mute: (its text cannot be made)"),
        ("asks", "raised", "EOFError"),
        ("prints", "passed", ""),
        pytest.param(
            *("hoards", "raised", "memory"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux"),
        ),
        ("starts", "passed", ""),
        ("loops", "timed out", "stopped after 8 seconds"),
        ("ends", "crashed", "exit status 7"),
        ("crashes", "crashed", "segmentation fault"),
        ("forks", "crashed", "exit status 4"),
        ("is_fine", "passed", ""),
        ("first", "crashed", "exit status 5"),
        ("second", "crashed", "exit status 5"),
    ],
)
def test_whatever_an_answer_does_is_told(
    hostile: tuple[Report, list[int], Path], name: str, status: str, told: str
) -> None:
    verdict = verdict_on(hostile[0], name)
    assert (verdict.status, told in verdict.message) == (status, True), verdict
    if status == "raised" and name != "hoards":
        assert verdict.where.startswith("acts.py, line ")


@pytest.mark.slow
@pytest.mark.requirement("course.child")
def test_the_others_are_graded_all_the_same_and_a_child_is_used_while_it_lives(
    hostile: tuple[Report, list[int], Path],
) -> None:
    report, started, _ = hostile
    assert [verdict.exercise for verdict in report.verdicts] == [*HOSTILE, "first", "second"]
    # One child to begin with, and one after each of loops, ends, crashes and forks. A file
    # that ends the process when it is imported does so once, not once an exercise.
    assert len(started) == 5


@pytest.mark.slow
@pytest.mark.requirement("course.child")
def test_a_flood_of_output_is_cut(hostile: tuple[Report, list[int], Path]) -> None:
    output = hostile[0].output
    assert output.startswith("x" * 1000)
    assert len(output) == grading.MOST_OUTPUT


@pytest.mark.slow
@pytest.mark.requirement("course.child")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_is_left_behind(hostile: tuple[Report, list[int], Path]) -> None:
    _, started, workspace = hostile
    left = [int(line) for line in (workspace / "pids").read_text().split()]
    assert len(left) == 3
    assert not [pid for pid in [*left, *started] if alive(pid)]


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and was not yet waited for does not."""
    for _ in range(100):  # a killed process takes a moment
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
@pytest.mark.requirement("course.spare")
def test_a_spare_child_takes_the_next_job_and_none_is_left_after(
    workspace: Path, catalogue: Catalogue
) -> None:
    (workspace / "sums.py").write_text(answer("double", "return x + 2"))
    with Grader(spare=True) as grader:
        spare = grader._spare
        assert spare is not None
        report = grader.grade(workspace, catalogue.select("twice"))
        assert spare.process.poll() is not None  # it did the job and was ended
        (verdict,) = report.verdicts
        assert verdict.status == "wrong"
        assert verdict.diagnosis is not None and verdict.diagnosis.name == "plus two"
        following = grader._spare
        assert following is not None and following is not spare
        assert following.process.poll() is None
    assert following.process.poll() is not None
    assert grader._spare is None


def test_a_worker_that_cannot_start_is_no_fault_of_the_answer(
    workspace: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Grader() as grader, pytest.raises(CourseError, match="could not start"):
        grader.grade(workspace, catalogue.select("twice"))


def test_a_worker_that_never_answers_is_no_fault_of_the_answer(
    workspace: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(grading, "START_LIMIT", 0.3)
    with Grader() as grader, pytest.raises(CourseError, match=r"did not start within 0\.3 seconds"):
        grader.grade(workspace, catalogue.select("twice"))


def test_a_child_that_tells_nothing_more_but_lives_is_ended(
    workspace: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An answer may close every file, that of the verdicts as well."""
    shell = tmp_path / "shell"
    shell.write_text(
        f"""#!{sys.executable}
import os, sys, time
sys.stdin.readline()
for what in ("begins", "imported"):
    os.write(int(sys.argv[4]), ('{{"' + what + '": "twice"}}\\n').encode())
os.close(int(sys.argv[4]))
time.sleep(600)
"""
    )
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    with Grader() as grader:
        (verdict,) = grader.grade(workspace, catalogue.select("twice")).verdicts
    assert (verdict.status, "closed the files" in verdict.message) == ("crashed", True)


def test_ending_twice_is_allowed() -> None:
    child = grading._Child()
    child.end()
    child.end()
    assert child.process.returncode == -9
    with pytest.raises(OSError):
        os.fstat(child.reader)
