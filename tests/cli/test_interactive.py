"""`tiny interactive`: prompts and commands in, text streamed out, and no mistake ends it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.helpers import fingerprints, start

from tiny_transformer.cli import interactive
from tiny_transformer.cli.interactive import Session
from tiny_transformer.cli.main import main
from tiny_transformer.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.requirement("generate.interactive")


@pytest.fixture
def pieces() -> list[str]:
    return []


@pytest.fixture
def session(trained_run: Path, pieces: list[str]) -> Session:
    checkpoint = load_checkpoint(trained_run / "checkpoints" / "step-00000006")
    made = Session(checkpoint, pieces.append, "cpu")
    assert made.handle("/set max_new_tokens 12")
    pieces.clear()
    return made


def say(session: Session, pieces: list[str], line: str) -> str:
    """Hand the session a line; return its answer."""
    pieces.clear()
    assert session.handle(line)
    return "".join(pieces)


def test_a_prompt_is_continued_piece_by_piece(session: Session, pieces: list[str]) -> None:
    text = say(session, pieces, "ab")
    assert text.startswith("ab") and text.endswith("\n") and len(text) == 2 + 12 + 1
    assert len(pieces) == 12 + 1  # the first comes with the prompt, then each as it is made
    assert say(session, pieces, "ab") == text  # the same seed


def test_every_setting_can_be_set_and_is_shown(session: Session, pieces: list[str]) -> None:
    wanted = {"max-new-tokens": 5, "temperature": 0.5, "top_k": 7, "top-p": 0.9, "min-p": 0.1}
    wanted |= {"seed": 3, "repetition_penalty": 1.5, "presence_penalty": 0.25}
    wanted |= {"frequency_penalty": 0.125}
    for name, value in wanted.items():
        assert f"{name.replace('-', '_')} {value}" in say(session, pieces, f"/set {name} {value}")
    shown = (
        "max_new_tokens 5, temperature 0.5, top_k 7, top_p 0.9, min_p 0.1, seed 3, "
        "repetition_penalty 1.5, presence_penalty 0.25, frequency_penalty 0.125, errors strict, "
        "crop off"
    )
    assert say(session, pieces, "/show") == f"{shown}\n"
    assert len(say(session, pieces, "ab")) == 2 + 5 + 1
    say(session, pieces, "/set top_k none")
    assert "top_k None, top_p None" in say(session, pieces, "/set top_p off")


def test_the_seed_and_the_temperature_change_the_text(session: Session, pieces: list[str]) -> None:
    first = say(session, pieces, "ab")
    say(session, pieces, "/set seed 8")
    assert say(session, pieces, "ab") != first
    say(session, pieces, "/set temperature 0")
    coldest = say(session, pieces, "ab")
    say(session, pieces, "/set seed 9")
    assert say(session, pieces, "ab") == coldest


def test_line_breaks_and_slashes_can_be_typed(session: Session, pieces: list[str]) -> None:
    assert say(session, pieces, "a\\nb").startswith("a\nb")
    assert say(session, pieces, "//show").startswith("/show")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/sett seed 1", "/sett seed 1 is not a command here; /help lists them."),
        ("/", "is not a command here"),
        ("/set seed", "is not a command here"),
        ("/crop maybe", "is not a command here"),
        ("/errors ignore", "is not a command here"),
        ("/set sed 1", "'sed' is not a setting here. Did you mean 'seed'?"),
        ("/set seed x", "seed is 'x'"),
        ("/set seed -1", "seed is -1"),
        ("/set top_p 2", "top_p is 2.0"),
        ("/set temperature -1", "temperature is -1.0"),
        ("/set max_new_tokens none", "max_new_tokens is None"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(
    line: str, told: str, session: Session, pieces: list[str]
) -> None:
    before = session.sampling
    answer = say(session, pieces, line)
    assert told in answer and answer.count("\n") == 1
    assert session.sampling == before


@pytest.mark.parametrize(
    ("line", "told", "way_out"),
    [
        ("", "The prompt is empty", "type \\n"),
        ("caf\u00e9", "'\u00e9' (U+00E9)", "/errors replace"),
        ("x" * 17, "17 characters", "/crop on"),
    ],
)
def test_a_refused_prompt_is_told_with_the_command_that_helps(
    line: str, told: str, way_out: str, session: Session, pieces: list[str]
) -> None:
    answer = say(session, pieces, line)
    assert told in answer and way_out in answer
    assert "--" not in answer  # a flag cannot be typed here
    if way_out.startswith("/"):
        assert say(session, pieces, way_out) == ""
        assert len(say(session, pieces, line)) == len(line) + 12 + 1
        undo = {"/errors replace": "/errors strict", "/crop on": "/crop off"}[way_out]
        assert say(session, pieces, undo) == ""
        assert told in say(session, pieces, line)


def test_help_names_every_command_and_setting(session: Session, pieces: list[str]) -> None:
    text = say(session, pieces, "/help")
    for word in ("/set", "/show", "/errors", "/crop", "/help", "/quit", "Ctrl-C"):
        assert word in text
    for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed"):
        assert name in text


@pytest.mark.parametrize("line", ["/quit", "/exit"])
def test_quit_ends(line: str, session: Session) -> None:
    assert session.handle(line) is False


@pytest.mark.parametrize("after", [0, 2])
def test_ctrl_c_stops_the_text_and_not_the_session(
    after: int, session: Session, pieces: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[str]:
        yield from "xy"[:after]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(interactive, "stream_text", interrupted)
        written = "abxy" if after else ""
        assert say(session, pieces, "ab") == f"{written} [stopped]\n"
    assert len(say(session, pieces, "ab")) == 2 + 12 + 1


class Keyboard(io.StringIO):
    """Standard input at a terminal."""

    def isatty(self) -> bool:
        return True


def test_at_a_terminal_it_greets_and_survives_ctrl_c_at_the_prompt(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter([KeyboardInterrupt, "/show", EOFError])
    asked = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr("builtins.input", answer)
    assert main(["interactive", str(trained_run)]) == 0
    out, err = capsys.readouterr()
    assert asked == ["> ", "> ", "> "]
    assert "step 6. /help lists the commands." in out and "temperature 1.0" in out
    assert err == ""


def test_piped_lines_are_answered_until_the_input_ends(
    run: Path, environment: dict[str, str]
) -> None:
    before = fingerprints(run)
    lines = b"/set max_new_tokens 4\n@@\ncaf\xff\n/nothing\n@@\n"
    status, out, err = start(["interactive", str(run)], environment, input=lines)
    assert (status, err) == (0, "")
    settings, *first = out.split("@@")
    assert "max_new_tokens 4" in settings
    assert len(first) == 2 and len(first[1]) == 4 + 1
    assert first[0].startswith(first[1])
    assert "U+FFFD" in first[0] and "/nothing is not a command here" in first[0]
    assert fingerprints(run) == before


def test_quit_ends_before_the_input_does(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/show\n/quit\n/show\n"))
    assert main(["interactive", str(trained_run)]) == 0
    assert capsys.readouterr().out.count("temperature 1.0") == 1
