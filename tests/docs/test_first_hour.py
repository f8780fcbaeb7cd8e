"""`docs/first-hour.md` and `docs/first-days.md`: what they name exists, and the days add up."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections import Counter
from pathlib import Path

import pytest

from tiny_transformer.cli.main import COMMANDS, main
from tiny_transformer.course.catalogue import load_catalogue
from tiny_transformer.course.graft import FILES
from tiny_transformer.course.hunt import load_hunts

pytestmark = pytest.mark.requirement("docs.first-hour")

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("first-hour", "first-days")
}
EXERCISES = {exercise.id: exercise for exercise in load_catalogue()}
DAYS = dict(re.findall(r"^## (Day \d)\n(.*?)(?=^## )", PAGES["first-days"], re.M | re.S))
(EXTRA,) = re.findall(r"^## Extra\n(.*)", PAGES["first-days"], re.M | re.S)


def shell_lines(page: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGES[page], re.M | re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def tiny_lines(page: str) -> list[str]:
    inline = re.findall(r"`(tiny [^`\n]*)`", PAGES[page])
    return [line for line in shell_lines(page) + inline if line.startswith("tiny ")]


@functools.cache
def help_of(*command: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main([*command, "--help"])
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue()


def named_ids(text: str) -> list[str]:
    return [name for name in re.findall(r"`([a-z]+(?:-[a-z]+)*)`", text) if name in EXERCISES]


def rows(day: str) -> list[tuple[str, int]]:
    return [(what, int(n)) for what, n in re.findall(r"^\| (.+?) \| (\d+) \|$", DAYS[day], re.M)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_flag_exists(page: str) -> None:
    lines = tiny_lines(page)
    assert len(lines) > 10
    for line in lines:
        command, *words = line.split()[1:]
        assert command in COMMANDS, line
        parts = (command, words[0]) if command in ("course", "runs", "data") else (command,)
        status, told = help_of(*parts)
        assert status == 0, line
        known = set(re.findall(r"--[a-z][\w.-]*", told))
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known, line


@pytest.mark.parametrize("page", PAGES)
def test_every_name_after_a_command_exists(page: str) -> None:
    actions = {
        "check": {*EXERCISES, *(module.name[:2] for module in load_catalogue().modules)},
        "hint": {*EXERCISES},
        "solution": {*EXERCISES},
        "reset": {*EXERCISES},
        "compare": {*FILES},
        "bug-hunt": {*load_hunts(), "list", "check", "hint", "give-up"},
    }
    for line in tiny_lines(page):
        _, action, *words = [*line.split()[1:], "", ""]
        if not line.startswith("tiny course") or action not in actions:
            continue
        for word in words:
            if word.startswith("--"):
                break
            assert word in {*actions[action], ""}, line


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = {line.split()[1] for line in shell_lines(page) if line.startswith("make ")}
    targets |= set(re.findall(r"`make ([a-z-]+)", PAGES[page]))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if page == "first-hour":
        assert {"install", "verify", "demo"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGES[page])
    assert len(links) >= 3
    for link in links:
        name, _, anchor = link.partition("#")
        path = (ROOT / "docs" / name).resolve() if name else ROOT / "docs" / f"{page}.md"
        assert path.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            anchors = {
                re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings
            }
            assert anchor in anchors, link


def test_every_exercise_has_its_one_day_and_extra_ones_have_none() -> None:
    in_days = Counter(name for day in DAYS for what, _ in rows(day) for name in named_ids(what))
    core = {name for name, exercise in EXERCISES.items() if not exercise.extra}
    assert in_days == Counter(core)
    assert Counter(named_ids(EXTRA.partition("\n\nIf")[0])) == Counter(set(EXERCISES) - core)


def test_an_exercise_stands_after_those_that_it_requires() -> None:
    order = [name for day in DAYS for what, _ in rows(day) for name in named_ids(what)]
    for name in order:
        for needed in EXERCISES[name].requires:
            assert order.index(needed) < order.index(name), (name, needed)


@pytest.mark.parametrize("day", DAYS)
def test_the_minutes_of_a_day_are_those_of_the_course_and_add_up(day: str) -> None:
    *parts, (last, total) = rows(day)
    assert last == "together"
    assert sum(minutes for _, minutes in parts) == total
    hunts = {hunt.name: hunt.minutes for hunt in load_hunts().values()}
    for what, minutes in parts:
        named = named_ids(what)
        if named:
            assert sum(EXERCISES[name].minutes for name in named) == minutes, what
        hunted = re.fullmatch(r"bug hunt `([\w-]+)`", what)
        if hunted:
            assert hunts[hunted[1]] == minutes, what
    number = day.removeprefix("Day ")
    (hours,) = re.findall(rf"^\| {number} \| [^|]* \| ([\d.]+) \|", PAGES["first-days"], re.M)
    assert float(hours) == pytest.approx(total / 60, abs=0.051)


def test_the_minutes_of_extra_exercises_are_those_of_the_course() -> None:
    table = re.findall(r"^\| (\d\d) \| (.+?) \| (\d+) \|$", EXTRA, re.M)
    assert len(table) >= 5
    for _, what, minutes in table:
        assert sum(EXERCISES[name].minutes for name in named_ids(what)) == int(minutes)


@pytest.mark.parametrize("page", PAGES)
def test_what_looks_like_a_name_of_the_course_is_one(page: str) -> None:
    hunts = set(load_hunts())
    for name in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", PAGES[page]):
        assert name in {*EXERCISES, *hunts}, name


def test_the_files_that_the_days_read_exist() -> None:
    modules = {module.name[:2]: module.folder for module in load_catalogue().modules}
    named = set(re.findall(r"`(\w+\.md)`", PAGES["first-days"]))
    assert {"theory.md", "notebook.md", "review.md"} <= named
    for name in named - {"refresher.md", "shapes.md"}:
        assert all((folder / name).is_file() for folder in modules.values()), name
    assert all((modules["00"] / name).is_file() for name in ("refresher.md", "shapes.md"))
