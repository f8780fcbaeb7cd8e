"""`docs/own-parts.md`: its table is the code's, and its flags and hunts exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tiny_transformer.cli.main import main
from tiny_transformer.course.graft import FILES
from tiny_transformer.course.hunt import load_hunts

pytestmark = pytest.mark.requirement("docs.own-parts")

PAGE = (Path(__file__).parents[2] / "docs" / "own-parts.md").read_text(encoding="utf-8")
COMMANDS = ("train", "course train", "course compare", "generate", "eval", "resume", "runs verify")


def test_the_table_is_that_of_the_graft() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| `(\w+)`", PAGE, re.M)
    assert {part: (file, name) for part, file, name in rows} == FILES


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_that_it_names_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    used = re.findall(rf"^(?:\$ )?tiny {command} (.*)$", PAGE, re.M)
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", " ".join(used)))
    assert used
    try:
        status = main([*command.split(), "--help"])
    except SystemExit as end:
        status = end.code
    assert not status
    assert flags <= set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))


def test_the_hunt_that_it_shows_exists() -> None:
    assert set(re.findall(r"^tiny course bug-hunt (?:\w+ )?(too-\w+)", PAGE, re.M)) <= set(
        load_hunts()
    )


def test_the_table_of_hunts_is_that_of_the_course() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (easy|medium|hard|very hard) \|", PAGE, re.M)
    assert dict(rows) == {hunt.name: hunt.difficulty for hunt in load_hunts().values()}
