"""Processes to be killed: forked from one that has torch loaded, one thread, and no OpenMP.

`python -m tests.faults.server` reads requests from its standard input, a line of JSON each,
and forks a child for each job of `tests.faults.jobs`. Forking from pytest itself would copy
locks that its threads hold, and children would hang.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds that a child may take, unless the test says otherwise


class ForkServer:
    """Starts jobs in processes of their own.

    Attributes:
        folder: for what children tell.
    """

    def __init__(self, cache: Path) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="tiny-faults-")
        self.folder = Path(self._temporary.name)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TINY_TRANSFORMER_CACHE": str(cache),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", str(self.folder)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server is gone"
        return json.loads(answer)

    def start(self, job: str, **arguments: Any) -> int:
        """Start a job; return its process id."""
        return self._ask(do="start", job=job, arguments=arguments)

    def wait(self, pid: int, limit: float = LIMIT) -> tuple[int, Any]:
        """Wait for a job's end; return its status (negative: the signal) and its result."""
        status = self._ask(do="wait", pid=pid, limit=limit)
        assert status is not None, f"a child has not ended within {limit} seconds"
        file = self.folder / f"{pid}.json"
        result = json.loads(file.read_text()) if file.exists() else None
        file.unlink(missing_ok=True)
        return status, result

    def status(self, job: str, limit: float = LIMIT, **arguments: Any) -> int:
        """Run a job that may be killed; return how it ended."""
        return self.wait(self.start(job, **arguments), limit)[0]

    def call(self, job: str, limit: float = LIMIT, **arguments: Any) -> Any:
        """Run a job to its end; return its result."""
        status, result = self.wait(self.start(job, **arguments), limit)
        assert status == 0, result
        return result

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(LIMIT)
        self._process.stdout.close()
        self._temporary.cleanup()


def _start(folder: Path, job: str, arguments: dict[str, Any]) -> int:
    from tests.faults import jobs

    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        result = getattr(jobs, job)(**arguments)
        status = 0
    except BaseException:
        result = traceback.format_exc()
    with contextlib.suppress(BaseException):
        (folder / f"{os.getpid()}.json").write_text(json.dumps(result))
    os._exit(status)


def _wait(pid: int, limit: float) -> int | None:
    end = time.monotonic() + limit
    pause = 0.0005
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def main() -> None:
    """Answer requests until the input ends."""
    from tests.faults import jobs

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a child prints is no answer
    jobs.warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer = _start(Path(sys.argv[1]), request["job"], request["arguments"])
        else:
            answer = _wait(request["pid"], request["limit"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
