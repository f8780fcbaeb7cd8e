"""The course's notebooks are what their pages make, and pages are run from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tools import notebooks

pytestmark = pytest.mark.requirement("course.notebooks")

PAGES = notebooks.pages()
HEAD = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""


def page(folder: Path, *cells: str, text: str = "# A page\n") -> Path:
    path = folder / "01_made_up" / "theory.md"
    path.parent.mkdir(exist_ok=True)
    code = "".join(f"```{{code-cell}} ipython3\n{cell}\n```\n\n" for cell in cells)
    path.write_text(f"{HEAD}{text}\n{code}", encoding="utf-8")
    return path


def test_every_notebook_of_the_course_is_what_its_page_makes() -> None:
    assert len(PAGES) >= 8
    assert notebooks.outdated() == []


@pytest.mark.parametrize(
    "path", notebooks.pages(), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_notebook_has_no_output_and_ids_that_stay(path: Path) -> None:
    made = nbformat.reads(path.with_suffix(".ipynb").read_text(encoding="utf-8"), as_version=4)
    nbformat.validate(made)
    assert [cell.id for cell in made.cells] == [f"cell-{i}" for i in range(len(made.cells))]
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_a_changed_a_missing_and_an_orphaned_notebook_are_outdated(tmp_path: Path) -> None:
    made = page(tmp_path, "1 + 1")
    assert notebooks.outdated(tmp_path) == [made.with_suffix(".ipynb")]
    made.with_suffix(".ipynb").write_text(notebooks.text_of(made), encoding="utf-8")
    assert notebooks.outdated(tmp_path) == []
    page(tmp_path, "1 + 2")
    assert notebooks.outdated(tmp_path) == [made.with_suffix(".ipynb")]
    orphan = tmp_path / "01_made_up" / "gone.ipynb"
    orphan.write_text("{}", encoding="utf-8")
    assert orphan in notebooks.outdated(tmp_path)


def test_a_page_runs_in_one_kernel_and_its_faults_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = page(tmp_path, "x = 20.5", "%matplotlib inline\nprint(x + x)", text="It says 41.0.\n")
    assert notebooks.main(["run", str(good)]) == 0
    assert "1 of 1 pages ran" in capsys.readouterr().out
    bad = page(tmp_path, "x = 1", "print(x)\nx / 0", text="Text.\n")
    assert notebooks.main(["run", str(bad)]) == 1
    told = capsys.readouterr().out
    assert "fail" in told
    assert "ZeroDivisionError" in told


@pytest.mark.parametrize(
    ("text", "unheld"),
    [
        ("The loss is 0.693.", []),
        ("The loss is 0.694.", []),  # one unit of the last digit: another machine
        ("The loss is 0.696.", ["0.696"]),
        ("That is 69.3 % of it, or $0.693$.", []),
        ("See [section 3.2.1](https://arxiv.org/abs/1706.03762) and section 3.4.", []),
        ("Python 3.11 and version 2.13.0 are no figures.", []),
        ("It is 1.75, says the code; it is 1.85, says nobody.", ["1.85"]),
    ],
)
def test_numbers_of_the_text_are_held_by_the_cells(text: str, unheld: list[str]) -> None:
    code = nbformat.v4.new_code_cell("print(1.75)")
    code.outputs = [nbformat.v4.new_output("stream", text="loss 0.6931\n")]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), code])
    assert notebooks.unheld(made) == unheld


def test_a_page_without_code_is_no_notebook(tmp_path: Path) -> None:
    assert notebooks.run(page(tmp_path)) == ["The page has no cell with code."]


def test_what_is_no_page_with_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("# Text")
    for name in ("README.md", "none.md"):
        with pytest.raises(SystemExit):
            notebooks.main(["write", str(tmp_path / name)])
        assert "is not a page with code" in capsys.readouterr().err
    assert not (tmp_path / "README.ipynb").exists()


def test_a_course_without_pages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebooks, "pages", list)
    with pytest.raises(SystemExit):
        notebooks.main(["run"])
    assert "no page with code" in capsys.readouterr().err
