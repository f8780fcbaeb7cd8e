"""The system calls by which the package writes, taken over: traced, killed at, made to fail."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_transformer.runtime import files

SEAM = (
    "os_open",
    "os_write",
    "os_truncate",
    "os_fsync",
    "os_replace",
    "os_mkdir",
    "os_unlink",
    "os_rmdir",
)
Intercept = Callable[..., Any]  # (name, real call, *arguments)


@contextlib.contextmanager
def intercepted(intercept: Intercept) -> Iterator[None]:
    """Send every call of the seam through `intercept`."""
    real = {name: getattr(files, name) for name in SEAM}
    for name, call in real.items():
        setattr(files, name, functools.partial(intercept, name, call))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(files, name, call)


def path_of(descriptor: int) -> str:
    """Return the path that an open descriptor has now, also after a rename."""
    link = Path(f"/proc/self/fd/{descriptor}")
    if link.parent.exists():
        return str(link.readlink())
    command = getattr(fcntl, "F_GETPATH")  # noqa: B009  (macOS)
    return fcntl.fcntl(descriptor, command, b"\0" * 1024).rstrip(b"\0").decode()


@dataclass(frozen=True)
class Call:
    """One call of the seam, one that `failed`, or a `mark` that a scenario set between two.

    Attributes:
        name: of the call.
        path: the file or folder.
        target: where it is moved to.
        data: bytes written.
        flags: it is opened with.
        size: it is cut to.
    """

    name: str
    path: str
    target: str = ""
    data: bytes = b""
    flags: int = 0
    size: int = 0


@dataclass
class Tracer:
    """Records the calls that are made."""

    calls: list[Call] = field(default_factory=list)

    def __call__(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        first = arguments[0]
        path = path_of(first) if isinstance(first, int) else os.path.realpath(Path(first).parent)
        if not isinstance(first, int):
            path = f"{path}/{Path(first).name}"
        try:
            result = real(*arguments)
        except OSError:
            self.calls.append(Call("failed", path))
            raise
        if name == "os_write":
            call = Call(name, path, data=bytes(arguments[1])[:result])
        elif name == "os_replace":
            target = Path(arguments[1])
            call = Call(name, path, target=f"{os.path.realpath(target.parent)}/{target.name}")
        elif name == "os_open":
            call = Call(name, path, flags=arguments[1])
        elif name == "os_truncate":
            call = Call(name, path, size=arguments[1])
        else:
            call = Call(name, path)
        self.calls.append(call)
        return result

    def mark(self, name: str) -> None:
        """Remember that the scenario has come to a point that it names."""
        self.calls.append(Call("mark", name))


@dataclass
class Killer:
    """Ends the process by SIGKILL at its n-th call: `before` it, `after` it, or `half` way.

    Args:
        number: of the call, from 1.
        how: half way is for writes alone, after half of the bytes.
    """

    number: int
    how: str
    calls: int = 0

    def __call__(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self.number:
            if self.how == "half":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            elif self.how == "after":
                with contextlib.suppress(OSError):  # a call may fail as it always would
                    real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)


@dataclass
class Failer:
    """Makes calls fail: `lasting` calls from the n-th one on; a write fails half done.

    Args:
        number: of the first call that fails, from 1.
        error: the `errno`.
        lasting: how many fail.
    """

    number: int
    error: int
    lasting: float = 1
    calls: int = 0
    failed: list[str] = field(default_factory=list)

    def __call__(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        self.calls += 1
        if self.number <= self.calls < self.number + self.lasting:
            self.failed.append(name)
            if name == "os_write" and len(self.failed) == 1:
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(self.error, os.strerror(self.error))
        return real(*arguments)


def points(calls: list[Call], *, every: bool) -> list[tuple[int, str]]:
    """Return the points at which a process can be killed: call number and `how`.

    Args:
        calls: as they were traced.
        every: also after each call, which leaves the folder as before the next one does.
    """
    names = [call.name for call in calls if call.name != "mark"]
    return [
        (number, how)
        for number, name in enumerate(names, start=1)
        for how in ("before", "half", "after")
        if (how != "half" or name == "os_write")
        and (how != "after" or every or number == len(names))
    ]
