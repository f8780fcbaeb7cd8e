"""What a run shows: plain lines for a pipe, a bar for a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tiny_transformer.tracking import console as module
from tiny_transformer.tracking.console import ConsoleReporter, format_seconds


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def reporter(*, terminal: bool = False) -> tuple[ConsoleReporter, io.StringIO]:
    shown = io.StringIO()
    return ConsoleReporter(Console(file=shown, force_terminal=terminal, width=60)), shown


def metrics(loss: float = 2.5) -> dict[str, float]:
    return {"loss": loss, "tokens_per_second": 12345.6}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0:00"),
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (65, "1:05"),
        (3599.9, "1:00:00"),
        (7205, "2:00:05"),
    ],
)
def test_seconds_read_like_a_clock(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_without_a_terminal_a_line_comes_at_most_every_ten_seconds_and_at_the_end(
    clock: Clock,
) -> None:
    report, shown = reporter()
    report.start(0, 40)
    for step in range(1, 41):
        clock.now += 1
        report.step(step, metrics())
    lines = shown.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/40", "11/40", "21/40", "31/40", "40/40"]
    assert lines[1] == "step 11/40  loss 2.500  12,346 tokens/s  0:29 left"
    assert lines[-1].endswith("0:00 left")


def test_the_time_left_of_a_resumed_run_counts_its_own_steps(clock: Clock) -> None:
    report, shown = reporter()
    report.start(90, 100)
    clock.now += 4
    report.step(91, metrics())
    assert shown.getvalue().strip().endswith("tokens/s")  # the first step says little yet
    clock.now += 10
    report.step(96, metrics())
    assert shown.getvalue().strip().endswith("0:08 left")


def test_lines_are_not_wrapped_nor_read_as_markup() -> None:
    report, shown = reporter()
    long = "[bold]x[/bold] " * 20
    report.message(long)
    assert shown.getvalue() == long + "\n"


def test_an_evaluation_shows_its_three_numbers() -> None:
    report, shown = reporter()
    report.evaluation(7, {"val_loss": 1.5, "val_perplexity": 4.4817, "bits_per_char": 2.164})
    assert shown.getvalue() == (
        "step 7  validation loss 1.5000  perplexity 4.48  bits per character 2.164\n"
    )


@pytest.mark.requirement("training.samples")
def test_a_sample_is_shown_on_one_line_and_cut_where_it_is_long() -> None:
    report, shown = reporter()
    report.sample(3, "to be\n  or\tnot\n")
    report.sample(4, "x" * 90)
    report.sample(5, "x" * 91)
    assert shown.getvalue().splitlines() == [
        "step 3  sample: to be or not",
        "step 4  sample: " + "x" * 90,
        "step 5  sample: " + "x" * 90 + "...",
    ]


def test_in_a_terminal_a_bar_shows_step_losses_and_rate_and_is_taken_down(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a dumb one is sent nothing to take down
    shown = io.StringIO()
    report = ConsoleReporter(Console(file=shown, force_terminal=True, width=120))
    report.start(2, 10)
    clock.now += 1
    report.step(5, metrics(3.25))
    report.evaluation(5, {"val_loss": 1.5, "val_perplexity": 4.5, "bits_per_char": 2.2})
    report.step(6, metrics(3.0))
    report.close()
    text = shown.getvalue()
    assert "6/10" in text
    assert "loss 3.000  val 1.500" in text
    assert "12,346 tokens/s" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
    report.close()
    assert shown.getvalue() == text


def test_the_default_is_standard_error_so_that_output_can_be_piped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ConsoleReporter().message("hello")
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "hello")
