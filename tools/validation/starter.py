"""Start commands of `tiny` from one Python that has PyTorch imported already.

Most of a short command's time is the import of PyTorch, 2 s of 2.5. A starter imports it
once, and each command is a fork of that: a process of its own with its own folder, streams and
end, in which the package itself is imported anew. What it does not show is that the import
works; the full validation, which starts Python anew for each command, does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

_PRELOADED = ("torch", "numpy", "safetensors.torch", "pydantic", "rich.console", "tyro", "yaml")
_POLL = 0.02  # seconds between two looks for commands that have ended


class Started:
    """A command that was started; it is asked, signalled and waited for as `subprocess.Popen`.

    Args:
        pid: of its process, which leads its own group.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def end(self, returncode: int) -> None:
        """Take down how it ended."""
        self.returncode = returncode
        self._ended.set()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise `subprocess.TimeoutExpired` if it takes longer."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)


class Starter:
    """The Python that has PyTorch imported, and the commands that it started.

    Args:
        variables: the environment of every command.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(variables),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for who asked for the validation
        )
        self._lock = threading.Lock()  # one order at a time
        self._born = threading.Condition()
        self._new: list[Started] = []
        self._running: dict[int, Started] = {}
        self._over = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # at which it ends
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(self, words: Sequence[str], folder: Path, streams: Sequence[Path]) -> Started:
        """Start `tiny` with these words.

        Args:
            words: the command line after `tiny`.
            folder: its current folder.
            streams: files for standard input, output and error.

        Raises:
            OSError: the starter has ended.
        """
        order = {"words": list(words), "folder": str(folder), "streams": list(map(str, streams))}
        assert self._process.stdin is not None
        with self._lock, self._born:
            with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, as is told below
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
            if not self._born.wait_for(lambda: self._new or self._over, 120):
                raise OSError("the starter does not answer")
            if not self._new:
                raise OSError("the starter has ended")
            return self._new.pop()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            with self._born:
                if "began" in told:
                    self._new.append(Started(told["began"]))
                    self._running[told["began"]] = self._new[-1]
                else:
                    self._running.pop(told["ended"]).end(told["status"])
                self._born.notify_all()
        with self._born:
            for started in self._running.values():  # they have lost their parent
                started.end(-signal.SIGKILL)
            self._over = True
            self._born.notify_all()


def _become(order: Mapping[str, Any]) -> None:
    """Turn this fork into a process that was started for a command."""
    os.setsid()
    os.chdir(order["folder"])
    flags = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)
    for number, (path, flag) in enumerate(zip(order["streams"], flags, strict=True)):
        opened = os.open(path, flag)
        os.dup2(opened, number)
        os.close(opened)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        text = io.TextIOWrapper(
            os.fdopen(number, f"{mode}b", closefd=False),
            encoding="utf-8",
            errors="backslashreplace" if name == "stderr" else "strict",
            line_buffering=name == "stderr",
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    sys.argv = ["tiny", *order["words"]]
    sys.path[0] = order["folder"]


def _serve() -> Mapping[str, Any]:
    """Start a fork for each order; return in a fork, with its order."""
    orders, answers = os.dup(0), os.dup(1)  # the forks' own streams take the places 0 and 1
    held, children = b"", set[int]()

    def tell(**what: int) -> None:
        os.write(answers, (json.dumps(what) + "\n").encode())

    def reap(options: int) -> None:
        while children:
            pid, status = os.waitpid(-1, options)
            if pid == 0:
                return
            children.discard(pid)
            tell(ended=pid, status=os.waitstatus_to_exitcode(status))

    while True:
        reap(os.WNOHANG)
        if not select.select([orders], [], [], _POLL if children else None)[0]:
            continue
        chunk = os.read(orders, 1 << 16)
        if not chunk:
            reap(0)
            os._exit(0)
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                os.close(orders)
                os.close(answers)
                return json.loads(line)
            children.add(pid)
            tell(began=pid)


def _run() -> NoReturn:
    """Run the command, and end without taking PyTorch apart, which takes a second."""
    try:
        from tiny_transformer.cli.main import entry_point

        entry_point()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as Python itself would end
        traceback.print_exc()
        status = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] - waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    for module in _PRELOADED:
        with contextlib.suppress(ImportError):  # the commands will say what is missing
            importlib.import_module(module)
    gc.freeze()  # what is shared with the forks stays so
    _become(_serve())
    _run()
