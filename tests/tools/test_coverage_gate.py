"""Every room is held to its coverage, and measuring nothing is no success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import coverage_gate

Numbers = tuple[int, int, int, int]  # covered lines, lines, covered branches, branches


def a_package(folder: Path) -> Path:
    package = folder / "src" / "house"
    for name in ["__init__.py", "cellar/wine.py", "attic/__init__.py", "attic/box/deep.py"]:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x = 1\n")
    return package


def judge(folder: Path, files: dict[str, Numbers]) -> int:
    report = {
        "files": {
            name: {
                "summary": {
                    "covered_lines": lines,
                    "num_statements": all_lines,
                    "covered_branches": branches,
                    "num_branches": all_branches,
                }
            }
            for name, (lines, all_lines, branches, all_branches) in files.items()
        }
    }
    path = folder / "coverage.json"
    path.write_text(json.dumps(report))
    return coverage_gate.main([str(path), "--package", str(a_package(folder))])


GOOD: dict[str, Numbers] = {
    "src/house/__init__.py": (9, 10, 0, 0),
    "src/house/cellar/wine.py": (80, 80, 10, 20),
    "src/house/attic/__init__.py": (1, 1, 0, 0),
    "src/house/attic/box/deep.py": (19, 20, 4, 4),
}


@pytest.mark.requirement("setup.coverage-gate")
def test_rooms_at_ninety_per_cent_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(tmp_path, GOOD) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["room", "files", "covered", "of", "%"],
        [".", "1", "9", "10", "90.0"],
        ["attic", "2", "24", "25", "96.0"],
        ["cellar", "1", "90", "100", "90.0"],
    ]


@pytest.mark.requirement("setup.coverage-gate")
@pytest.mark.parametrize(
    ("name", "numbers", "room"),
    [
        ("src/house/cellar/wine.py", (79, 80, 10, 20), "cellar"),  # a line less
        ("src/house/cellar/wine.py", (80, 80, 9, 20), "cellar"),  # a branch less
        ("src/house/__init__.py", (8, 10, 0, 0), "."),
        ("src/house/attic/box/deep.py", (10, 20, 4, 4), "attic"),
    ],
)
def test_one_room_below_the_limit_fails(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    numbers: Numbers,
    room: str,
) -> None:
    assert judge(tmp_path, GOOD | {name: numbers}) == 1
    assert capsys.readouterr().err == f"coverage gate: failed for {room}\n"


@pytest.mark.requirement("setup.coverage-gate")
@pytest.mark.parametrize("room", ["cellar", "attic"])
def test_a_room_that_was_not_measured_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], room: str
) -> None:
    files = {name: numbers for name, numbers in GOOD.items() if f"/{room}/" not in name}
    assert judge(tmp_path, files) == 1
    printed = capsys.readouterr()
    assert f"failed for {room}" in printed.err
    assert "nothing was measured" in printed.out


@pytest.mark.requirement("setup.coverage-gate")
@pytest.mark.parametrize(
    "files", [{}, {"elsewhere/x.py": (1, 1, 0, 0)}, dict.fromkeys(GOOD, (0, 0, 0, 0))]
)
def test_a_report_of_nothing_fails(tmp_path: Path, files: dict[str, Numbers]) -> None:
    assert judge(tmp_path, files) == 1


def test_a_package_without_files_fails(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "coverage.json").write_text('{"files": {}}')
    arguments = [str(tmp_path / "coverage.json"), "--package", str(tmp_path / "empty")]
    assert coverage_gate.main(arguments) == 1


@pytest.mark.parametrize("content", [None, "", "{"])
def test_an_unreadable_report_fails(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "coverage.json"
    if content is not None:
        path.write_text(content)
    assert coverage_gate.main([str(path)]) == 1


def test_the_gate_looks_at_this_package_and_at_ninety_per_cent() -> None:
    assert (coverage_gate.PACKAGE / "__init__.py").exists()
    assert coverage_gate.LIMIT >= 90
