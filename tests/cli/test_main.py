"""`tiny`: finds the command, and turns every end into an exit status."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.helpers import SMALL, parser_refusal, refusal, start

from tiny_transformer import __version__
from tiny_transformer.cli import train
from tiny_transformer.cli.main import COMMANDS, main
from tiny_transformer.runtime.errors import ConfigError, DivergedError, TinyError


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_and_how_to_begin(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, what in COMMANDS.items():
        assert f"  {name} " in out and what in out
    assert "tiny train --config tiny" in out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "data"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"usage: tiny {command}" in out
    assert err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tiny_transformer {__version__}\n"


def test_a_misspelt_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refusal(capsys, "genrate", "x")
    assert message == "'genrate' is not a command. Did you mean 'generate'?"


def test_an_unheard_of_command_is_answered_with_all(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "xyz")
    assert all(name in message for name in COMMANDS)


@pytest.mark.parametrize("flag", ["--helpp", "-x"])
def test_an_unknown_flag_at_the_top(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert flag in parser_refusal(capsys, flag)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("a.b is 1."), 2, "tiny: a.b is 1.\n"),
        (DivergedError("gone"), 3, "tiny: gone\n"),
        (TinyError("so"), 2, "tiny: so\n"),
        (KeyboardInterrupt(), 130, "tiny: Interrupted.\n"),
        (
            OSError(errno.EIO, "Input/output error", "a/file"),
            2,
            "tiny: a/file could not be read or written: Input/output error.\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "tiny: The output could not be read or written: No space left on device.\n",
        ),
        (BrokenPipeError(), 0, ""),
        (SystemExit(2), 2, ""),
    ],
)
def test_how_a_command_ends_is_the_exit_status(
    error: BaseException,
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(train, "main", fail)
    assert main(["train"]) == status
    assert capsys.readouterr().err == message


def test_a_programming_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "main", fail)
    with pytest.raises(ZeroDivisionError):
        main(["train"])


@pytest.mark.requirement("names.module-main")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["trian"]])
def test_the_module_equals_the_command(words: list[str], environment: dict[str, str]) -> None:
    script = Path(sys.executable).with_name("tiny")
    done = subprocess.run([script, *words], capture_output=True, text=True, env=environment)
    module = start(words, environment)
    assert module == (done.returncode, done.stdout, done.stderr)
    assert module[0] == (0 if words[0].startswith("--") else 2)
    assert "Traceback" not in module[2]


def test_words_of_the_process_are_the_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tiny", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("tiny_transformer ")


def test_a_reader_who_leaves_is_no_error(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tiny_transformer", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    complaints = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(timeout=120), complaints) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_to_a_full_disk_is_one_message(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tiny_transformer", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
        )
    message = "tiny: The output could not be read or written: No space left on device.\n"
    assert (done.returncode, done.stderr.decode()) == (2, message)


@pytest.mark.requirement("config.refused")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", *SMALL, "--model.n-layrs", "3"], ["--model.n-layrs", "--model.n-layers"]),
        (["train", *SMALL, "--optimiser.beta1", "0.5"], ["--optimiser.beta1", "--optimizer.beta1"]),
        (["generate", "x", "--temperatur", "1"], ["--temperatur", "--temperature"]),
        (["resume", "x", "--max-steps", "9"], ["--max-steps", "--training.max-steps"]),
        (["eval", "x", "--bach-size", "9"], ["--bach-size", "--batch-size"]),
        (["interactive", "x", "--devise", "cpu"], ["--devise", "--device"]),
    ],
)
def test_a_misspelt_flag_is_answered_with_the_nearest(
    words: list[str], told: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = parser_refusal(capsys, *words)
    unknown, near = told
    assert f"Unrecognized options: {unknown}" in message
    assert near in message.partition("Perhaps you meant:")[2].split()[:4]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--model.n-layers", "three"], ["--model.n-layers", "'three'"]),
        (["train", "--optimizer.name", "sgd"], ["--optimizer.name", "'sgd'", "'muon'"]),
        (["train", "--data.shuffle", "maybe"], ["--data.shuffle", "'maybe'", "'False'"]),
        (["train", "--config"], ["--config", "expected one argument"]),
        (["train", "surplus"], ["surplus"]),
        (["generate"], ["Missing", "RUN"]),
        (["resume"], ["Missing", "RUN"]),
        (["eval"], ["Missing", "RUN"]),
        (["interactive"], ["Missing", "RUN"]),
        (["generate", "x", "y"], ["Unrecognized options: y"]),
        (["generate", "x", "--max-new-tokens", "3.5"], ["--max-new-tokens", "'3.5'"]),
        (["generate", "x", "--errors", "ignore"], ["--errors", "'ignore'", "'replace'"]),
    ],
)
def test_a_word_in_the_wrong_place_is_named(
    words: list[str], told: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = parser_refusal(capsys, *words)
    assert all(part in message for part in told), message
    assert f"tiny {words[0]}" in message  # whose help to read
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["generate", "resume", "eval", "interactive"])
def test_a_run_that_is_not_there(
    command: str, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a run")
    for given in ("smal", "file", "x" * 5000, ""):
        message = refusal(capsys, command, given)
        assert f"There is no run {given!r}" in message
    assert "Did you mean 'small'?" in refusal(capsys, command, "smal")
    assert "Train one first: tiny train" in refusal(capsys, command, "smal", "--runs-dir", "none")


@pytest.mark.parametrize("command", ["generate", "resume", "eval", "interactive"])
def test_a_run_without_a_checkpoint_says_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "short").mkdir(parents=True)
    (tmp_path / "runs" / "short" / "config.yaml").write_text("")
    message = refusal(capsys, command, "short")
    assert "has no checkpoint" in message and "--training.checkpoint-every" in message


@pytest.mark.parametrize("command", ["generate", "eval", "interactive"])
@pytest.mark.parametrize("device", ["cuda:77", "gpu"])
def test_a_device_that_is_not_there(
    command: str, device: str, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, command, str(trained_run), "--device", device)
    assert repr(device) in message and "auto" in message
