"""The workspace: begun, added to, found and reset, and what the learner wrote is kept."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from tests.course.made_up import STUB_SUMS, answer, write_course

from tiny_transformer.course import workspace as workspace_file
from tiny_transformer.course.catalogue import Catalogue, load_catalogue
from tiny_transformer.course.content import CourseError
from tiny_transformer.course.progress import FILE, Entry, Progress
from tiny_transformer.course.verdict import Status, Verdict
from tiny_transformer.course.workspace import (
    find_workspace,
    init_workspace,
    reset_exercise,
    reset_file,
)
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import StorageError

MINE = "import os\r\n\r\ndef double(x):\r\n    return x + x  # mine\r\n"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.requirement("course.init")
def test_a_workspace_begins_with_the_stubs(course: Path, tmp_path: Path) -> None:
    setup = init_workspace(tmp_path / "deep" / "mine")
    assert setup.is_new
    assert set(setup.added_files) == {"sums.py", "layers.py"}
    for name in setup.added_files:
        stub = course / "my_transformer" / name
        assert (setup.folder / name).read_bytes() == stub.read_bytes()
    again = init_workspace(setup.folder)
    assert (again.is_new, again.added_files, again.added_functions) == (False, (), ())


@pytest.mark.requirement("course.init")
@pytest.mark.parametrize("mine", [MINE, STUB_SUMS.replace("double", "other"), "", "x = 1"])
def test_init_adds_what_is_new_and_touches_nothing_else(
    course: Path, tmp_path: Path, mine: str
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "sums.py").write_bytes(mine.encode())
    (folder / "notes.txt").write_text("mine")
    setup = init_workspace(folder)
    now = (folder / "sums.py").read_bytes().decode()
    position = 0
    for line in mine.splitlines():  # every line of theirs, in order
        position = now.index(line, position)
    compile(now, "sums.py", "exec")
    for function in ("double", "total", "mean"):
        assert now.count(f"def {function}(") == 1
    assert (folder / "notes.txt").read_text() == "mine"
    assert set(setup.added_files) == {"layers.py"}
    (backup,) = (folder / ".backups").iterdir()
    assert backup.read_bytes() == mine.encode()
    before = contents(folder)
    init_workspace(folder)
    assert contents(folder) == before


@pytest.mark.requirement("course.init")
def test_an_upgrade_brings_new_functions_and_files(course: Path, workspace: Path) -> None:
    (workspace / "sums.py").write_text(answer("double", "return x * 2"))
    new = 'def product(x: "math.T") -> None:\n    """New."""\n    raise NotImplementedError("p")\n'
    sums = f"import math\n{STUB_SUMS}\n\n{new}"
    write_course(course, {"my_transformer/sums.py": sums, "my_transformer/new.py": "x = 1\n"})
    setup = init_workspace(workspace)
    assert (setup.added_files, setup.added_functions) == (("new.py",), ("sums.py: product",))
    text = (workspace / "sums.py").read_text()
    assert text == f"{answer('double', 'return x * 2')}\n\n{new}"


def test_a_file_that_is_not_python_is_left_alone(workspace: Path) -> None:
    (workspace / "sums.py").write_text("def (")
    before = contents(workspace)
    (problem,) = init_workspace(workspace).problems
    assert "sums.py cannot be read as Python" in problem
    assert contents(workspace) == before


@pytest.mark.parametrize("place", ["course", "course/my_transformer", "course/sub/mine"])
def test_the_course_itself_is_no_workspace(course: Path, place: str) -> None:
    before = contents(course)
    with pytest.raises(CourseError, match="belongs to the course itself"):
        init_workspace(course.parent / place)
    assert contents(course) == before


def test_a_file_is_no_workspace(course: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(CourseError, match="is a file"):
        init_workspace(tmp_path / "mine")


@pytest.mark.requirement("course.init")
def test_a_folder_that_cannot_be_written_is_one_message_and_no_half_workspace(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "os_write", fail)
    with pytest.raises(StorageError, match="No permission"):
        init_workspace(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.requirement("course.workspace")
def test_the_workspace_is_found_from_inside_and_from_just_above(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, beside = workspace / "plots" / "a", workspace.parent / "beside"
    inside.mkdir(parents=True)
    beside.mkdir()
    for start in (workspace, inside, workspace.parent, beside):
        assert find_workspace(start=start) == workspace
    monkeypatch.chdir(workspace.parent)
    assert find_workspace() == workspace
    assert find_workspace("my_transformer") == Path("my_transformer")


@pytest.mark.requirement("course.workspace")
def test_no_workspace_or_several_are_told(course: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(CourseError, match="tiny course init"):
        find_workspace(start=place)
    with pytest.raises(CourseError, match="is no workspace"):
        find_workspace(str(place))
    one = init_workspace(place / "one").folder
    assert find_workspace(start=place) == one
    init_workspace(place / "two")
    with pytest.raises(CourseError, match="several workspaces here: one, two"):
        find_workspace(start=place)


@pytest.mark.requirement("course.reset")
def test_reset_puts_one_stub_back_and_keeps_a_copy(workspace: Path, catalogue: Catalogue) -> None:
    path = workspace / "sums.py"
    text = answer("double", "# mine\nreturn x * 2").replace("# How to double.", "# I know.")
    text = text.replace('raise NotImplementedError("mean")', "return x.mean(-1)")
    path.write_text(text)
    copy = reset_exercise(workspace, catalogue.exercise("twice"))
    assert copy is not None and copy.read_text() == text
    assert copy.parent == workspace / ".backups" and copy.name.startswith("sums.py.")
    assert path.read_text() == STUB_SUMS.replace(
        'raise NotImplementedError("mean")', "return x.mean(-1)"
    )
    second = reset_exercise(workspace, catalogue.exercise("mean"))
    assert second is not None and second != copy and copy.read_text() == text
    assert path.read_text() == STUB_SUMS


@pytest.mark.requirement("course.reset")
def test_reset_of_a_file_that_is_not_python_or_gone(workspace: Path, catalogue: Catalogue) -> None:
    path, exercise = workspace / "sums.py", catalogue.exercise("twice")
    path.write_text("def (")
    with pytest.raises(CourseError, match="tiny course reset twice --file"):
        reset_exercise(workspace, exercise)
    assert path.read_text() == "def ("
    copy = reset_file(workspace, exercise)
    assert copy is not None and copy.read_text() == "def ("
    assert path.read_text() == STUB_SUMS
    path.unlink()
    assert reset_exercise(workspace, exercise) is None
    assert path.read_text() == STUB_SUMS


def test_reset_brings_back_what_was_deleted_with_its_imports(
    workspace: Path, catalogue: Catalogue
) -> None:
    (workspace / "sums.py").write_text("x = 1\n")
    reset_exercise(workspace, catalogue.exercise("mean"))
    text = (workspace / "sums.py").read_text()
    assert text.startswith("from torch import Tensor\nx = 1\n\n\ndef mean(x: Tensor)")


def test_a_stub_that_cannot_be_placed_harms_nothing(
    workspace: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (workspace / "sums.py").read_bytes()
    monkeypatch.setattr(workspace_file.Source, "with_definition", lambda *_: "def (")
    with pytest.raises(CourseError, match="cannot be put in its place"):
        reset_exercise(workspace, catalogue.exercise("mean"))
    assert (workspace / "sums.py").read_bytes() == before


def passed(name: str) -> Verdict:
    return Verdict(name, "passed", 2, 2)


@pytest.mark.requirement("course.progress")
def test_progress_is_kept_and_read_again(workspace: Path, catalogue: Catalogue) -> None:
    (workspace / "sums.py").write_text(answer("double", "return x * 2"))
    twice, total, mean, scale = catalogue
    progress = Progress(workspace)
    assert progress.next_exercise(catalogue) == twice
    progress.record(twice, Verdict("twice", "wrong"))
    progress.record(twice, passed("twice"))
    progress.record(total, Verdict("total", "not attempted"))
    assert [progress.show_hint(total) for _ in range(4)] == [1, 2, 3, 3]
    progress.update(mean, revealed=True)
    again = Progress(workspace)
    entry = again.entry(twice)
    assert (entry.attempts, entry.hints, entry.revealed) == (2, 0, False)
    assert len(entry.passed_at) == 19 and len(entry.source) == 16
    assert (again.entry(total).attempts, again.entry(total).hints) == (0, 3)
    assert again.entry(mean).revealed
    assert again.entry(scale) == Entry()
    assert again.next_exercise(catalogue) == total
    assert again.next_exercise(catalogue, after=scale) == total
    assert again.blocked_by(mean, catalogue) == ["total"]
    assert again.blocked_by(scale, catalogue) == []


@pytest.mark.requirement("course.progress")
def test_a_change_since_it_passed_is_seen(workspace: Path, catalogue: Catalogue) -> None:
    twice, progress = catalogue.exercise("twice"), Progress(workspace)
    progress.record(twice, passed("twice"))
    assert not progress.changed(twice)
    path = workspace / "sums.py"
    path.write_text(path.read_text().replace("# How to double.", "# Now I know."))
    assert not progress.changed(twice)
    path.write_text(answer("double", "return x * 2"))
    assert progress.changed(twice) and progress.passed(twice)
    progress.record(twice, Verdict("twice", "raised"))
    assert not progress.changed(twice) and not progress.passed(twice)


@pytest.mark.parametrize(
    ("status", "counts"),
    [("wrong", 1), ("timed out", 1), ("not attempted", 0), ("blocked", 0), ("missing", 0)],
)
def test_what_counts_as_an_attempt_and_undoes_a_pass(
    workspace: Path, catalogue: Catalogue, status: Status, counts: int
) -> None:
    twice, progress = catalogue.exercise("twice"), Progress(workspace)
    progress.record(twice, Verdict("twice", status))
    assert progress.entry(twice).attempts == counts
    progress.record(twice, passed("twice"))
    progress.record(twice, Verdict("twice", status))
    assert not progress.passed(twice)
    assert progress.entry(twice).attempts == 1 + 2 * counts


@pytest.mark.requirement("course.progress")
def test_what_is_not_known_is_kept(workspace: Path, catalogue: Catalogue) -> None:
    later = {"passed_at": "x", "stars": 3}
    content = {"format": 9, "more": [1], "exercises": {"of-later": later, "twice": {"stars": 2}}}
    (workspace / FILE).write_text(json.dumps(content))
    Progress(workspace).record(catalogue.exercise("twice"), passed("twice"))
    read = json.loads((workspace / FILE).read_text())
    assert (read["format"], read["more"], read["exercises"]["of-later"]) == (9, [1], later)
    assert read["exercises"]["twice"]["stars"] == 2


@pytest.mark.requirement("course.progress")
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"exercises": 3}', b"\xff\xfe", b"[" * 100_000, b"null"]
)
def test_a_damaged_record_is_set_aside(
    workspace: Path, content: bytes, catalogue: Catalogue
) -> None:
    (workspace / FILE).write_bytes(content)
    told: list[str] = []
    progress = Progress(workspace, told.append)
    assert progress.aside is not None and progress.aside.read_bytes() == content
    assert len(told) == 1 and progress.aside.name in told[0]
    assert progress.next_exercise(catalogue) == catalogue.exercise("twice")
    Progress(workspace, told.append)
    assert len(told) == 1


@pytest.mark.parametrize(
    "entry", [None, 3, [], {"attempts": "3"}, {"attempts": -1}, {"hints": True}, {"passed_at": 1}]
)
def test_an_entry_of_another_shape_is_a_fresh_one(
    workspace: Path, catalogue: Catalogue, entry: object
) -> None:
    (workspace / FILE).write_text(json.dumps({"exercises": {"twice": entry}}))
    assert Progress(workspace).entry(catalogue.exercise("twice")) == Entry()


def test_names_lead_to_exercises(catalogue: Catalogue) -> None:
    assert [e.id for e in catalogue.select(None)] == ["twice", "total", "mean", "scale"]
    for name in ("01", "sums", "01_sums"):
        assert len(catalogue.select(name)) == 3
    assert catalogue.select("double") == (catalogue.exercise("twice"),)
    assert catalogue.module_of(catalogue.exercise("scale")).name == "02_layers"
    with pytest.raises(CourseError, match="Did you mean 'total'"):
        catalogue.select("totl")
    with pytest.raises(CourseError, match="is not an exercise"):
        catalogue.exercise("01")
    assert load_catalogue() is catalogue
