"""A wheel has the course: what hatchling puts into one, unpacked and used."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.requirement("course.wheel")
def test_the_course_in_a_wheel_makes_a_workspace(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert not [name for name in names if "__pycache__" in name]
    inside = "tiny_transformer/course/modules/"
    content = {path.relative_to(ROOT / "course").as_posix() for path in sources()}
    assert content <= {name.removeprefix(inside) for name in names if name.startswith(inside)}
    # Coverage measures the checkout's files; those of the wheel would count as a second package.
    rest = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-m", "tiny_transformer", "course", "init"],
        cwd=tmp_path, env={**rest, "PYTHONPATH": str(site)}, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "my_transformer/ is your workspace" in done.stdout
    stub = ROOT / "course" / "my_transformer" / "attention.py"
    assert (tmp_path / "my_transformer" / "attention.py").read_bytes() == stub.read_bytes()


def sources() -> list[Path]:
    return [
        path
        for pattern in ("*/module.yaml", "*/test_*.py", "*/wrong_answers*.py", "solutions/*.py")
        for path in (ROOT / "course").glob(pattern)
    ]
