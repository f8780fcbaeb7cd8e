"""Run the checks of the command line, and judge what came of each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from tools.validation.checks import ROOT, Check, During
from tools.validation.starter import Started, Starter

Process: TypeAlias = "subprocess.Popen[bytes] | Started"

_POLL = 0.02  # seconds between two looks at a command that runs
_SHOWN = 4000  # characters of a failing command's output
_HIDDEN = re.compile(r"PYTHONUNBUFFERED|FORCE_COLOR|(TINY_TRANSFORMER|COV_CORE|COVERAGE)_.*")
_FRAME = re.compile(r"[─-╿]")  # lines and corners that frame the parser's messages


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        status: its exit status, negative where a signal ended it.
        out: standard output.
        err: standard error.
        faults: what went wrong while it ran, as no answer of a server.
    """

    status: int
    out: str
    err: str
    faults: tuple[str, ...] = ()


def environment(cache: Path) -> dict[str, str]:
    """Return the variables of a command: one thread, a cache of its own, a wide plain terminal."""
    kept = {name: value for name, value in os.environ.items() if not _HIDDEN.fullmatch(name)}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "TINY_TRANSFORMER_CACHE": str(cache),
        "MPLBACKEND": "Agg",
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def argv(words: Sequence[str]) -> list[str]:
    """Return what is started for the words of a check: `tiny` is this Python's."""
    if words[0] == "tiny":
        return [sys.executable, "-m", "tiny_transformer", *words[1:]]
    return [sys.executable, *words[1:]] if words[0] == "python" else list(words)


def run_command(
    check: Check, folder: Path, variables: Mapping[str, str], starter: Starter | None = None
) -> Outcome:
    """Run the command of a check in a folder; it and what it started end in its time.

    Args:
        check: the command, what is typed, and how long it may take.
        folder: its current folder.
        variables: its environment.
        starter: starts `tiny`; None starts Python anew.
    """
    with tempfile.TemporaryDirectory(prefix="tiny-check.") as aside:
        out, err, typed = (Path(aside) / name for name in ("out", "err", "in"))
        typed.write_text(check.stdin, encoding="utf-8")
        process = _start(check.words, folder, variables, (typed, out, err), starter)
        faults: list[str] = []
        deadline = time.monotonic() + check.seconds
        try:
            if check.during is not None:
                faults += _meanwhile(check.during, process, (out, err), deadline)
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            faults.append(f"it was stopped after {check.seconds:g} s")
        finally:
            _end(process)
        return Outcome(process.wait(), _read(out), _read(err), tuple(faults))


def _start(
    words: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    streams: tuple[Path, Path, Path],
    starter: Starter | None,
) -> Process:
    """Start a command with files for its streams."""
    for path in streams[1:]:
        path.touch()
    if starter is not None and words[0] == "tiny":
        return starter.start(words[1:], folder, streams)
    typed, out, err = streams
    with typed.open("rb") as stdin, out.open("wb") as to_out, err.open("wb") as to_err:
        return subprocess.Popen(
            argv(words),
            cwd=folder,
            env=dict(variables),
            stdin=stdin,
            stdout=to_out,
            stderr=to_err,
            start_new_session=True,  # so that it can be ended with what it started
        )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _end(process: Process) -> None:
    """End a process and what it started, if it has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _meanwhile(
    during: During, process: Process, streams: tuple[Path, Path], deadline: float
) -> list[str]:
    """Wait for a text, ask the server, send the signal; return what went wrong."""
    shown = ""
    while during.shows not in shown:
        if process.poll() is not None or time.monotonic() > deadline:
            return [f"it never showed {during.shows!r}"]
        time.sleep(_POLL)
        shown = "".join(map(_read, streams))
    faults = []
    if during.get or during.post:
        answer = _ask(during, shown)
        faults = [
            f"the answer lacks {text!r}: {answer}" for text in _missing(during.answer, answer)
        ]
    process.send_signal(getattr(signal, f"SIG{during.signal}"))
    return faults


def _ask(during: During, shown: str) -> str:
    """Return a server's answer, or why there is none."""
    address = re.search(r"http://[\w.:\[\]]+", shown)
    if address is None:
        return "no address was printed"
    body = json.dumps(dict(during.body)).encode() if during.post else None
    request = urllib.request.Request(
        address.group() + (during.post or during.get),
        data=body,
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, no proxy
    try:
        with opener.open(request, timeout=30) as response:
            return f"{response.status} {response.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode(errors='replace')}"
    except OSError as error:
        return str(error)


def fingerprints(folder: Path) -> dict[str, str]:
    """Return what lies below a folder: files with their SHA-256, folders with a slash."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "/"
        for path in sorted(folder.rglob("*"))
    }


def plain(text: str) -> str:
    """Return a text without frames and with one space for any white space."""
    return " ".join(_FRAME.sub(" ", text).split())


def _missing(wanted: Sequence[str], text: str) -> list[str]:
    return [each for each in wanted if plain(each) not in plain(text)]


def judge(check: Check, outcome: Outcome, outputs: Mapping[str, str] | None = None) -> list[str]:
    """Return what is wrong with what a command wrote and how it ended; the files are not looked at.

    Args:
        check: what is expected.
        outcome: what came.
        outputs: standard output of earlier checks, by title.
    """
    faults = list(outcome.faults)
    if outcome.status != check.status:
        faults.append(f"the exit status is {outcome.status}, and should be {check.status}")
    both = f"{outcome.out}\n{outcome.err}"
    if "Traceback (most recent call last)" in both:
        faults.append("there is a traceback")
    for name, wanted, text in (
        ("standard output", check.stdout, outcome.out),
        ("standard error", check.stderr, outcome.err),
        ("the message", check.refused, outcome.err),
    ):
        faults += [f"{name} lacks {each!r}" for each in _missing(wanted, text)]
    faults += [f"it says {each!r}" for each in check.absent if plain(each) in plain(both)]
    if check.refused:
        faults += _not_one_message(outcome)
    if check.json:
        faults += _not_json(check.json, outcome.out)
    if check.same_output and (outputs or {}).get(check.same_output) != outcome.out:
        faults.append(f"standard output is not that of {check.same_output!r}")
    return faults


def _not_one_message(outcome: Outcome) -> list[str]:
    """Return what keeps a refusal from being one message: a line of `tiny`, or the parser's."""
    faults = ["standard output is not empty"] if outcome.out else []
    lines = outcome.err.strip().splitlines()
    told = [line for line in lines if line.startswith("tiny: ")]
    from_parser = "╭" in outcome.err or outcome.err.startswith("usage: ")
    if not from_parser and (len(told) != 1 or lines != told):
        faults.append("standard error is not one message")
    return faults


def _not_json(kind: str, text: str) -> list[str]:
    try:
        for one in text.splitlines() if kind == "lines" else [text]:
            json.loads(one)
    except ValueError as error:
        return [f"standard output is not JSON: {error}"]
    return [] if text.strip() else ["standard output is empty"]


def compare_files(
    before: Mapping[str, str], after: Mapping[str, str], makes: Sequence[str]
) -> list[str]:
    """Return what a command should have made and did not, and what it should have left alone."""
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    faults = []
    for made in makes:
        if not any(_is_in(path, made) for path in after):
            faults.append(f"{made} is not there")
        elif not any(_is_in(path, made) for path in changed):
            faults.append(f"{made} is as it was before")
    # A folder that was made to hold what was to be made is no surprise.
    holders = {str(parent) for made in makes for parent in Path(made).parents}
    for path in sorted(changed - holders):
        if not any(_is_in(path, made) for made in makes):
            what = "changed" if path in before and path in after else "new"
            faults.append(f"{path} is {'gone' if path not in after else what}")
    return faults


def _is_in(path: str, made: str) -> bool:
    return path == made or path.startswith(f"{made}/")


def prepare(check: Check, folder: Path) -> None:
    """Write, copy and damage what a check asks for before its command is run."""
    for name, text in check.write.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for source, name in check.copy.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, folder / name)
    if check.damage:
        path = folder / check.damage
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def run_check(
    check: Check,
    folder: Path,
    variables: Mapping[str, str],
    outputs: dict[str, str],
    starter: Starter | None = None,
) -> tuple[float, str]:
    """Run one check; return its seconds, and what is wrong, with what the command wrote.

    Args:
        check: what is run, and what is expected.
        folder: where.
        variables: the environment.
        outputs: standard output of earlier checks by title; this one's is put there.
        starter: as `run_command` takes it.
    """
    try:
        prepare(check, folder)
    except OSError as error:
        return 0.0, f"it cannot be prepared: {error}"
    before = fingerprints(folder)
    began = time.perf_counter()
    outcome = run_command(check, folder, variables, starter)
    seconds = time.perf_counter() - began
    outputs[check.title] = outcome.out
    faults = judge(check, outcome, outputs)
    faults += compare_files(before, fingerprints(folder), check.makes)
    if not faults:
        return seconds, ""
    told = [*faults, f"$ {check.command}"]
    told += [f"[{name}]\n{text[-_SHOWN:].rstrip()}" for name, text in
             (("stdout", outcome.out), ("stderr", outcome.err)) if text.strip()]  # fmt: skip
    return seconds, "\n".join(told)
