"""The page on the architecture is true: its tree, its floors, its picture and its example."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from tests.test_rooms import FLOORS

from tools import architecture_figure

pytestmark = pytest.mark.requirement("docs.architecture")

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "src/tiny_transformer"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def tree_paths() -> list[str]:
    """Return the paths in the annotated tree, folders with a slash at the end."""
    (tree,) = code_blocks("")
    parents: list[str] = []
    paths = []
    for line in tree.splitlines():
        name, *what = line.split(maxsplit=1)
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        paths.append("".join(parents))
        assert what or depth == 0, f"{name} stands in the tree without a word about it"
    return paths


def rooms() -> list[str]:
    return [path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")]


def test_everything_in_the_tree_exists() -> None:
    for path in tree_paths():
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


def test_every_file_of_the_package_stands_in_the_tree_once() -> None:
    listed = [path for path in tree_paths() if not path.endswith("/")]
    present = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]
    own_init = re.compile(rf"{PACKAGE}/\w+/__init__\.py")  # the room's own line speaks for it
    assert sorted(listed) == sorted(path for path in present if not own_init.fullmatch(path))


def test_the_tree_and_the_picture_show_the_rooms_in_the_order_of_the_floors() -> None:
    present = [room for room in FLOORS if room in rooms()]
    assert sorted(present) == sorted(rooms())
    in_tree = re.findall(rf"{PACKAGE}/(\w+)/$", "\n".join(tree_paths()), re.MULTILINE)
    assert in_tree == present
    assert list(architecture_figure.ROOMS) == present


def test_the_picture_is_the_one_that_its_tool_draws() -> None:
    drawn = architecture_figure.draw()
    assert architecture_figure.FIGURE.read_text(encoding="utf-8") == drawn
    ElementTree.fromstring(drawn)  # well-formed
    assert f"({architecture_figure.FIGURE.relative_to(ROOT / 'docs').as_posix()})" in PAGE


def test_the_boxes_of_the_picture_do_not_overlap_and_lie_inside_it() -> None:
    boxes = architecture_figure.BOXES
    areas = [(box.left, box.top, box.left + box.width, box.top + 62) for box in boxes]
    for index, (left, top, right, bottom) in enumerate(areas):
        assert left > 0 and top > 0
        assert right < architecture_figure.WIDTH and bottom < architecture_figure.HEIGHT
        for other in areas[index + 1 :]:
            apart = other[0] >= right or other[2] <= left or other[1] >= bottom or other[3] <= top
            assert apart


def test_the_example_of_a_replaced_part_runs() -> None:
    (example,) = code_blocks("python")
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "docs/architecture.md", "exec"), names)
    assert type(names["mine"]).__name__ == "Transformer"
    assert "MyMLP" in repr(names["mine"])
