"""`tiny serve`: it says where, answers the official client, and ends when it is told to."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.cli.helpers import fingerprints, parser_refusal, refusal

from tiny_transformer.cli.main import main

DEADLINE = 60.0  # seconds


class Child:
    """`tiny serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line)
            if line.startswith("Ready"):
                break
        found = re.search(r"http://\S+/v1", "".join(self.lines))
        assert found, self.lines
        self.url = found.group()

    def client(self, api_key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=api_key, max_retries=0, timeout=DEADLINE)

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal; return the exit status and what was still written."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out, err


@contextlib.contextmanager
def serving(run: Path, environment: dict[str, str], *words: str) -> Iterator[Child]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tiny_transformer", "serve", str(run), "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    watch = threading.Timer(DEADLINE, process.kill)  # nothing here may hang
    watch.start()
    try:
        yield Child(process)
    finally:
        watch.cancel()
        process.kill()
        process.communicate()


@pytest.mark.requirement("serving.command")
def test_it_says_where_it_is_answers_and_ends_at_sigterm(
    trained_run: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprints(trained_run)
    with serving(trained_run, environment) as child:
        text = "".join(child.lines)
        assert re.match(
            r"Serving small \(step 6, context 16\) at http://127\.0\.0\.1:\d+/v1\n", text
        )
        assert text.endswith("Ready. Ctrl-C ends it.\n")
        assert not child.url.endswith(":0/v1")
        answer = child.client().completions.create(model="small", prompt="a", seed=3)
        assert answer.system_fingerprint == "small-step-00000006"
        stream = child.client().completions.create(
            model="small", prompt="a", max_tokens=200, stream=True
        )
        chunks = iter(stream)
        next(chunks)
        child.process.send_signal(signal.SIGTERM)
        *_, last = chunks  # what can end in time ends whole
        assert last.choices[0].finish_reason == "length"
        out, err = child.process.communicate(timeout=DEADLINE)
        assert (child.process.returncode, out, err) == (130, "Stopped.\n", "")
    capsys.readouterr()
    words = ["--prompt", "a", "--seed", "3", "--max-new-tokens", "16", "--device", "cpu"]
    assert main(["generate", str(trained_run), *words]) == 0
    assert capsys.readouterr().out == f"a{answer.choices[0].text}\n"
    assert fingerprints(trained_run) == before


@pytest.mark.requirement("serving.command")
def test_the_examples_that_it_prints_run(trained_run: Path, environment: dict[str, str]) -> None:
    environment["TINY_TRANSFORMER_API_KEY"] = "from-outside"
    with serving(trained_run, environment, "--max-tokens", "100", "--errors", "replace") as child:
        text = "".join(child.lines)
        assert "from-outside" not in text
        lines = [line.strip() for line in child.lines]
        start = next(i for i, line in enumerate(lines) if "from openai import" in line)
        program = "\n".join(lines[start : start + 4])
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout) == 101
        (command,) = re.findall(r"^  (curl .*?)\n\n", text, re.M | re.S)
        done = subprocess.run(
            ["bash", "-c", f"{command} -sS"], env=environment, capture_output=True, text=True
        )
        assert done.stdout.startswith('{"id":"cmpl-'), done.stderr + done.stdout
        with pytest.raises(openai.AuthenticationError):
            child.client("wrong").models.list()


@pytest.mark.requirement("serving.shutdown")
def test_ctrl_c_twice_ends_what_is_computed_with_an_error_and_no_traceback(
    trained_run: Path, environment: dict[str, str]
) -> None:
    with serving(trained_run, environment, "--max-tokens", "10000000") as child:
        stream = child.client().completions.create(
            model="small", prompt="a", max_tokens=10_000_000, stream=True
        )
        chunks = iter(stream)
        next(chunks)
        child.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIConnectionError):
            while True:  # until the first is heeded
                child.client().models.list()
        next(chunks)  # what was begun has a moment to end
        ended: list[tuple[int, str, str]] = []
        ending = threading.Thread(target=lambda: ended.append(child.end(signal.SIGINT)))
        ending.start()
        with pytest.raises(openai.APIError, match="server is stopping"):
            for _ in chunks:
                pass
        ending.join(DEADLINE)
        assert ended == [(130, "Stopped.\n", "")]


@pytest.mark.requirement("serving.refused")
def test_a_port_in_use_is_told(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refusal(capsys, "serve", str(trained_run), "--port", str(port))
    assert message == (
        f"Port {port} of 127.0.0.1 is in use. Choose another with --port, or --port 0 for one "
        "that is free."
    )


@pytest.mark.requirement("serving.refused")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000; a port is 0 to 65535"),
        (["--port", "-1"], "--port is -1"),
        (["--host", "0.0.0.0"], "lets other machines use the model. Give a key"),
        (["--host", "::"], "lets other machines"),
        (
            ["--host", "192.0.2.1", "--api-key", "k", "--port", "0"],
            "not an address of this machine",
        ),
        (["--host", "no such host", "--api-key", "k"], "is not a name or an address"),
        (["--max-concurrent", "0"], "--max-concurrent is 0"),
        (["--timeout", "-1"], "--timeout is -1"),
        (["--api-key", ""], "API key is empty"),
        (["--allow-origin", "example.org"], "is no origin"),
        (["--device", "tpu"], "tpu"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_before_anything_listens(
    trained_run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refusal(capsys, "serve", str(trained_run), *words)


@pytest.mark.requirement("serving.refused")
def test_a_wrong_run_or_flag_is_refused(
    capsys: pytest.CaptureFixture[str], trained_run: Path
) -> None:
    assert "nowhere" in refusal(capsys, "serve", "nowhere")
    assert "--prot" in parser_refusal(capsys, "serve", str(trained_run), "--prot", "1")


@pytest.mark.requirement("serving.refused")
def test_a_missing_package_is_told_with_what_installs_it(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refusal(capsys, "serve", str(trained_run))
    assert "starlette and uvicorn" in message
    assert message.endswith("pip install 'tiny-transformer[serve]'")
