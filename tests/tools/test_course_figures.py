"""The pictures of the course's pages are those that the tool draws, and pages show them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.course_figures import COURSE, FIGURES

from tiny_transformer.viz.plots import save_figure

pytestmark = pytest.mark.requirement("course.figures")


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_picture_is_the_one_that_its_function_draws(name: str, tmp_path: Path) -> None:
    drawn = save_figure(FIGURES[name](), tmp_path / "drawn.svg").read_bytes()
    assert drawn == (COURSE / name).read_bytes()


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_page_of_its_module_shows_it(name: str) -> None:
    module, picture = name.split("/", 1)
    pages = [page.read_text(encoding="utf-8") for page in (COURSE / module).glob("*.md")]
    assert any(f"({picture})" in page for page in pages)


def test_every_picture_in_the_course_has_a_function() -> None:
    found = {path.relative_to(COURSE).as_posix() for path in COURSE.glob("*/figures/*")}
    assert found == set(FIGURES)
