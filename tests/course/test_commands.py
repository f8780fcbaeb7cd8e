"""`tiny course` as a learner types it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.cli.helpers import parser_refusal, refusal
from tests.course.conftest import InProcess
from tests.course.made_up import STUB_SUMS, answer

from tiny_transformer.cli import course_check, course_show, course_watch
from tiny_transformer.cli.course import COMMANDS
from tiny_transformer.cli.course_options import console
from tiny_transformer.cli.main import main
from tiny_transformer.course import watching
from tiny_transformer.course.catalogue import Catalogue, _read_catalogue
from tiny_transformer.course.progress import FILE, Progress
from tiny_transformer.course.verdict import Diagnosis, Verdict
from tiny_transformer.runtime.errors import StorageError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_child(monkeypatch: pytest.MonkeyPatch, in_process: InProcess) -> InProcess:
    """Let commands grade in the test's own process."""
    monkeypatch.setattr(course_check, "Grader", lambda: in_process)
    monkeypatch.setattr(course_watch, "Grader", lambda spare: in_process)
    return in_process


def tiny(capsys: Capture, *words: str, status: int = 0) -> str:
    """Run `tiny course` with these words; return what it prints."""
    capsys.readouterr()
    assert main(["course", *words]) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def write(workspace: Path, function: str, body: str) -> None:
    (workspace / "sums.py").write_text(answer(function, body))


@pytest.mark.requirement("course.init")
def test_init_welcomes_and_says_what_to_type(
    course: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tiny(capsys, "init")
    assert (tmp_path / "my_transformer" / "sums.py").is_file()
    assert "4 exercises, about 2 hours" in out and "it is meant to" in out
    assert "tiny course check" in out
    assert "nothing was changed" in tiny(capsys, "init")
    monkeypatch.chdir("my_transformer")
    assert "nothing was changed" in tiny(capsys, "init")  # not a workspace inside the workspace
    Path("layers.py").unlink()
    Path("sums.py").write_text(STUB_SUMS.replace("def mean", "def median"))
    out = tiny(capsys, "init")
    assert "layers.py is new." in out and "mean is new, at the end of" in out
    assert "What you wrote is as it was." in out
    Path("sums.py").write_text("def (")
    assert "Mend it" in tiny(capsys, "init", status=2)
    monkeypatch.chdir(tmp_path)
    assert "other/ is your workspace" in tiny(capsys, "init", "other")


@pytest.mark.requirement("course.check")
def test_a_check_from_the_first_failure_to_the_pass(workspace: Path, capsys: Capture) -> None:
    out = tiny(capsys, "check", status=1)
    assert "○ twice is not written yet: double in sums.py" in out
    assert "This first failure is meant" in out and "my_transformer/sums.py" in out
    write(workspace, "double", "return x + 2")
    out = tiny(capsys, "check", status=1)
    assert "✗ twice is not right yet   1 of 2 tests pass" in out
    for words in (
        "promised  double doubles each number",
        "came      double(x) differs from what is expected in",
        "yours               expected",
        "(rows: row, columns: column)",
        "why       This is what your code does: You add two instead of multiplying.",
        "A hint: tiny course hint twice",
    ):
        assert words in out, out
    write(workspace, "double", "return x * 2")
    out = tiny(capsys, "check")
    assert "✓ twice passes all 2 tests" in out
    assert "tiny course solution twice" in out
    assert "Next: total, The sum of a row (10 minutes)" in out
    assert "This first failure" not in tiny(capsys, "check", status=1)


@pytest.mark.requirement("course.check")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--all"], "1 of 4 exercises pass"),
        (["01"], "1 of 3 exercises pass"),
        (["sums"], "1 of 3 exercises pass"),
        (["mean"], "○ mean is not written yet"),
        (["Scale"], "○ scale is not written yet"),
    ],
)
def test_what_is_checked(workspace: Path, capsys: Capture, words: list[str], told: str) -> None:
    write(workspace, "double", "return x * 2")
    assert told in tiny(capsys, "check", *words, status=1)


@pytest.mark.requirement("course.check")
def test_json(workspace: Path, capsys: Capture, in_process: InProcess) -> None:
    in_process.output = "hi\n"
    write(workspace, "double", "return x + 2")
    read = json.loads(tiny(capsys, "check", "sums", "--json", status=1))
    assert (read["passed"], read["output"]) == (False, "hi\n")
    assert [v["status"] for v in read["verdicts"]] == ["wrong", "not attempted", "not attempted"]
    assert read["verdicts"][0]["diagnosis"]["name"] == "plus two"
    listed = json.loads(tiny(capsys, "list", "--json"))
    assert [e["state"] for e in listed] == ["next", "open", "blocked", "blocked"]
    assert listed[0]["attempts"] == 1


def test_when_everything_has_passed(
    workspace: Path, course: Path, capsys: Capture, catalogue: Catalogue
) -> None:
    for name in ("sums.py", "layers.py"):
        (workspace / name).write_text((course / "solutions" / name).read_text())
    out = tiny(capsys, "check", "--all")
    assert "4 of 4 exercises pass." in out and "Every exercise has passed." in out
    assert "Every exercise has passed" in tiny(capsys, "check")
    out = tiny(capsys, "list")
    assert "3 of 3 done" in out and "0 minutes left" in out and "Next" not in out
    assert "Every exercise has passed" in refusal(capsys, "course", "hint")


def test_a_note_on_several_that_have_not_passed(catalogue: Catalogue) -> None:
    out = Console(width=80, record=True)
    verdict = Verdict("mean", "wrong", test="is the mean", message="It is not.")
    course_show.show_verdict(out, catalogue.exercise("mean"), verdict, ["twice", "total"])
    assert "It builds on twice, total, which have not passed yet." in out.export_text()


def test_a_note_where_it_builds_on_what_has_not_passed(workspace: Path, capsys: Capture) -> None:
    text = answer("mean", "return total(x)").replace(
        'raise NotImplementedError("total")', "return x"
    )
    (workspace / "sums.py").write_text(text)
    assert "It builds on total, which has not passed yet." in tiny(
        capsys, "check", "mean", status=1
    )


def test_what_the_code_printed_is_shown_in_part(
    workspace: Path, capsys: Capture, in_process: InProcess
) -> None:
    in_process.output = "".join(f"line {n}\n" for n in range(20)) + "x" * 3000
    out = tiny(capsys, "check", status=1)
    assert "Your code printed:\n  line 0\n" in out
    assert "line 14\n" in out and "line 15" not in out and "and 6 lines more" in out


def test_every_kind_of_failure_has_words(catalogue: Catalogue, capsys: Capture) -> None:
    guess = Diagnosis("x", "You guess.", False, 0.7)
    for status in ("raised", "missing", "not theirs", "timed out", "crashed"):
        verdict = Verdict("twice", status, test="is imported", message="[so]", diagnosis=guess)
        verdict = dataclasses.replace(verdict, where="sums.py, line 3")
        course_show.show_verdict(console(), catalogue.exercise("twice"), verdict)
        out = capsys.readouterr().out
        assert out.startswith("✗ twice ") and "when   sums.py is imported" in out
        assert "came   [so]" in out and "where  sums.py, line 3" in out
        assert "This may be what your code does, though not in every case: You guess." in out
    blocked = Verdict("mean", "blocked", message="It uses total.")
    course_show.show_verdict(console(), catalogue.exercise("mean"), blocked)
    assert "○ mean cannot be checked yet. It uses total." in capsys.readouterr().out


@pytest.mark.requirement("course.list")
def test_the_list_shows_what_is_done_and_what_is_next(workspace: Path, capsys: Capture) -> None:
    out = tiny(capsys, "list")
    assert "01_sums  Sums   0 of 3 done, 30 minutes of exercises, 1.5 hours with reading" in out
    assert "→  twice" in " ".join(out.split()).replace("→ ", "→  ", 1)
    assert "needs total" in out and "needs twice" in out
    assert "0 of 4 exercises done, about 1.7 hours left." in out
    assert "Next: twice, double in sums.py (5 minutes)" in out
    write(workspace, "double", "return x * 2")
    tiny(capsys, "check")
    write(workspace, "double", "return x + x")
    out = tiny(capsys, "list")
    assert "changed since it passed" in out and "1 of 4 exercises done" in out


@pytest.mark.requirement("course.extra")
def test_extra_exercises_come_last_and_are_counted_apart(
    course: Path, workspace: Path, capsys: Capture
) -> None:
    manifest = course / "01_sums" / "module.yaml"
    text = manifest.read_text()
    for name in ("total", "mean"):
        text = text.replace(f"function: {name},", f"function: {name}, extra: true,")
    manifest.write_text(text)
    _read_catalogue.cache_clear()
    out = tiny(capsys, "list")
    assert "5 minutes of exercises, 1.5 hours with reading, and 25 minutes of extra ones" in out
    assert "0 of 4 exercises done, about 75 minutes left, and 25 minutes of extra ones." in out
    assert [each["extra"] for each in json.loads(tiny(capsys, "list", "--json"))] == [
        False,
        True,
        True,
        False,
    ]
    write(workspace, "double", "return x * 2")
    assert "Next: scale" in tiny(capsys, "check")
    assert "2 exercises, about 1 hours of writing, and 2 extra ones" in tiny(
        capsys, "init", str(workspace.parent / "another")
    )


@pytest.mark.requirement("course.hint")
def test_hints_come_one_by_one_and_are_remembered(workspace: Path, capsys: Capture) -> None:
    first = tiny(capsys, "hint")
    assert "1  Which one" in first and "A product." not in first
    assert "2 more: tiny course hint twice" in first
    assert "2  A product." in tiny(capsys, "hint", "twice")
    third = tiny(capsys, "hint", "double")
    assert all(text in third for text in ("Which one", "A product.", "`return x * 2`"))
    assert "tiny course solution twice --reveal" in third
    assert tiny(capsys, "hint", "twice") == third


@pytest.mark.requirement("course.solution")
def test_a_solution_is_shown_after_passing_or_when_revealed(
    workspace: Path, course: Path, capsys: Capture
) -> None:
    message = refusal(capsys, "course", "solution", "twice")
    assert "has not passed yet" in message and "--reveal" in message
    out = tiny(capsys, "solution", "twice", "--reveal")
    assert "def double(x: Tensor) -> Tensor:" in out and "return x * 2" in out
    assert "Each element is doubled." in out and "Source: made up" in out
    assert f"{course / 'solutions' / 'sums.py'}, line 6." in out
    assert json.loads((workspace / FILE).read_text())["exercises"]["twice"]["revealed"]
    assert tiny(capsys, "solution", "twice") == out
    write(workspace, "total", "return x.sum(-1)")
    tiny(capsys, "check", "total")
    assert "x.sum(dim=-1)" in tiny(capsys, "solution", "total")


@pytest.mark.requirement("course.reset")
def test_reset(workspace: Path, capsys: Capture, catalogue: Catalogue) -> None:
    write(workspace, "double", "return x * 2")
    tiny(capsys, "check")
    out = tiny(capsys, "reset", "twice")
    assert out.startswith(
        "The stub of double is back. Your file as it was: my_transformer/.backups/"
    )
    assert (workspace / "sums.py").read_text() == STUB_SUMS
    assert not Progress(workspace).passed(catalogue.exercise("twice"))
    (workspace / "sums.py").write_text("def (")
    assert "--file" in refusal(capsys, "course", "reset", "twice")
    assert tiny(capsys, "reset", "twice", "--file").startswith("sums.py is back. ")
    assert (workspace / "sums.py").read_text() == STUB_SUMS


def test_watch_without_a_terminal(
    workspace: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, in_process: InProcess
) -> None:
    import os
    import sys

    reader, writer = os.pipe()
    os.write(writer, b"hlxq")
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        out = tiny(capsys, "watch")
    assert "checking twice ..." in out and "not written yet" in out
    assert "1  Which one" in out and "01_sums" in out and watching.KEYS in out
    assert "\x1b" not in out
    assert in_process.jobs == [["twice"]]


@pytest.mark.requirement("course.refused")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["check", "twic"], "'twic' is neither a module nor an exercise. Did you mean 'twice'?"),
        (["check", "01_sum"], "Did you mean '01_sums'?"),
        (["check", "sums", "--all"], "Drop one."),
        (["hint", "meen"], "'meen' is not an exercise. Did you mean 'mean'?"),
        (["solution", "sums"], "'sums' is not an exercise. Valid names: "),
        (["reset", "scales"], "Did you mean 'scale'?"),
        (["list", "--workspace", "nowhere"], "nowhere is no workspace."),
        (["init", "my_transformer/sums.py"], "is a file"),
    ],
)
def test_what_cannot_be_done_is_one_message(
    workspace: Path, capsys: Capture, words: list[str], told: str
) -> None:
    before = (workspace / FILE).read_bytes()
    assert told in refusal(capsys, "course", *words)
    assert (workspace / FILE).read_bytes() == before


@pytest.mark.requirement("course.refused")
@pytest.mark.parametrize(
    "words", [["list"], ["check"], ["check", "nothing"], ["watch"], ["hint"], ["reset", "twice"]]
)
def test_without_a_workspace_it_says_how_to_make_one(
    course: Path, tmp_path: Path, capsys: Capture, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, "course", *words)
    if words != ["reset", "twice"] and words != ["hint"]:
        assert "There is no workspace in" in message
    assert "tiny course init" in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "subcommand"),
        (["chekc"], "check"),
        (["reset"], "EXERCISE"),
        (["hint", "--al"], "--al"),
    ],
)
def test_wrong_words(course: Path, capsys: Capture, words: list[str], told: str) -> None:
    assert told in parser_refusal(capsys, "course", *words)


def test_help_names_every_subcommand(capsys: Capture) -> None:
    assert main(["course", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_progress_that_cannot_be_saved_does_not_cost_the_verdict(
    workspace: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("No permission to write.")

    monkeypatch.setattr(Progress, "update", fail)
    write(workspace, "double", "return x * 2")
    assert main(["course", "check"]) == 0
    out, err = capsys.readouterr()
    assert "✓ twice passes" in out
    assert err == "tiny: Your progress could not be saved. No permission to write.\n"


@pytest.mark.requirement("course.progress")
def test_a_damaged_record_is_told_and_the_check_goes_on(workspace: Path, capsys: Capture) -> None:
    (workspace / FILE).write_text("{")
    assert main(["course", "check"]) == 1
    out, err = capsys.readouterr()
    assert "was damaged and is now progress.json.damaged-" in err
    assert "twice is not written yet" in out
