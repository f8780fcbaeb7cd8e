"""Who computes when: a few requests at once, a few in line, and no more.

A request is computed in a thread of its own, so that the server answers meanwhile. What it
computes depends on nothing that runs beside it. It stops within a token when its client has gone
or its time is up, and only then gives its place to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from tiny_transformer.serving.errors import ApiError

T = TypeVar("T")

_RETRY_AFTER = 1  # seconds


class _End:
    """Nothing more will come; `error` says whether that is as it should be."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class ComputeQueue(Generic[T]):
    """Computes what requests ask for.

    Args:
        max_concurrent: computed at once.
        max_waiting: in line; who comes later is refused.
        timeout: seconds from the request to its last token.
    """

    def __init__(self, max_concurrent: int, max_waiting: int, timeout: float) -> None:
        self._most, self._longest_line, self._timeout = max_concurrent, max_waiting, timeout
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix="compute")
        self._line: deque[asyncio.Future[None]] = deque()
        self._running: set[asyncio.Queue[T | _End]] = set()
        self._computing = 0

    @property
    def computing(self) -> int:
        """Requests that are computed now."""
        return self._computing

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    async def run(self, make: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
        """Yield what an iterator yields, as it comes.

        The iterator is made and read in another thread. Closing this one, or cancelling the task
        that reads it, ends the computation before its next item.

        Raises:
            ApiError: too many wait already (429), or the time is up (408).
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            await self._take_place(deadline)
        except TimeoutError:
            raise self._too_late() from None
        items: asyncio.Queue[T | _End] = asyncio.Queue()
        stop = threading.Event()
        work = loop.run_in_executor(self._threads, _work, make, stop, loop, items)
        work.add_done_callback(lambda _: self._leave_place())
        self._running.add(items)
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    item = await items.get()
                if not isinstance(item, _End):
                    yield item
                elif item.error is None:
                    return
                else:
                    raise item.error
        except TimeoutError:
            raise self._too_late() from None
        finally:
            stop.set()
            self._running.discard(items)

    def stop(self) -> None:
        """End everything that computes or waits, because the server ends."""
        for turn in self._line:
            if not turn.done():
                turn.set_exception(_stopping())
        for items in self._running:
            items.put_nowait(_End(_stopping()))

    async def _take_place(self, deadline: float) -> None:
        if self._computing < self._most:
            self._computing += 1
            return
        if len(self._line) >= self._longest_line:
            raise ApiError(
                f"The server is busy: {self._computing} requests are computed and "
                f"{len(self._line)} wait. Try again in a moment.",
                status=429,
                code="server_busy",
                headers={"Retry-After": str(_RETRY_AFTER)},
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException:
            if turn in self._line:
                self._line.remove(turn)
            else:  # the place was given to one who is leaving
                self._leave_place()
            raise

    def _leave_place(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._computing -= 1

    def _too_late(self) -> ApiError:
        return ApiError(
            f"The time is up: a request may wait and compute for {self._timeout:g} seconds here. "
            "Ask for fewer tokens, or start the server with a longer --timeout.",
            status=408,
            code="timeout",
            headers={"x-should-retry": "false"},  # to the openai client: it would only come again
        )


def _stopping() -> ApiError:
    return ApiError("The server is stopping.", status=503, code="server_stopping")


def _work(
    make: Callable[[], Iterator[T]],
    stop: threading.Event,
    loop: asyncio.AbstractEventLoop,
    items: asyncio.Queue[T | _End],
) -> None:
    def put(item: T | _End) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(items.put_nowait, item)

    try:
        for item in make():
            if stop.is_set():
                return
            put(item)
        put(_End())
    except BaseException as error:
        put(_End(error))
