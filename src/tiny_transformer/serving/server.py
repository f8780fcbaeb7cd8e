"""The process around the application: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from tiny_transformer.serving.errors import ServeError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
GRACE = 3.0  # seconds that requests may go on after a wish to stop


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: a name or an address, of version 4 or 6.
        port: 0 takes one that is free.

    Raises:
        ServeError: the port is taken or not allowed, or the host is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ServeError(f"--port is {port}; a port is 0 to 65535, and 0 takes one that is free.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ServeError(f"--host {host!r} is not a name or an address: {error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ServeError(_why_not(host, port, error)) from None
    listener.setblocking(False)
    return listener


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use. Choose another with --port, or --port 0 for one "
            "that is free."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Port {port} is not allowed ({error.strerror}). Choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine. 127.0.0.1 is for this one alone."
    return f"The server cannot listen at {host}, port {port}: {error.strerror or error}."


def url_of(listener: socket.socket) -> str:
    """Return where a socket listens, as `http://host:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def uvicorn_config(app: Starlette) -> uvicorn.Config:
    """Return how uvicorn runs the application: silently, and with nothing but HTTP."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(GRACE) + 2,
    )


def serve(app: Starlette, listener: socket.socket, ready: Callable[[], object]) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    What computes then has `GRACE` seconds to end, and is told to stop; a second signal does not
    wait.

    Args:
        app: as `create_app` returns it.
        listener: as `bind` returns it; it is closed at the end.
        ready: is called once requests are answered.
    """
    server = _Server(uvicorn_config(app), ready, app.state.queue.stop)
    with contextlib.closing(listener):
        asyncio.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """Ends by itself after a signal, instead of raising the signal again."""

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], object], stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready, self._stop = ready, stop
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as a wish to end."""
        before: dict[int, Any] = {
            number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        grace = 0.0 if self.should_exit else GRACE
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, grace, self._stop)
