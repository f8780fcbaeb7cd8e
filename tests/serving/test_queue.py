"""Who computes when: few at once, few in line, and nobody who has gone."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from tests.serving.helpers import DEADLINE, Gate, Server, build, events, running, wait_until
from tests.serving.test_completions import ask

from tiny_transformer.serving.errors import ApiError
from tiny_transformer.serving.queue import ComputeQueue

ENDLESS = 10_000_000


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as found:
        yield found


class Held:
    """A server whose model computes only while its gate is open."""

    def __init__(self, threads: ThreadPoolExecutor, **changes: Any) -> None:
        self.model = build()
        self.gate = Gate(self.model)
        self._threads = threads
        self._running = running(self.model, max_tokens=ENDLESS, **changes)

    def __enter__(self) -> Held:
        self.server: Server = self._running.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.gate.open()
        self._running.__exit__(None, None, None)

    def ask(self, **options: Any) -> Future[Any]:
        return self._threads.submit(ask, self.server.client(), **options)

    def send_raw(self, body: dict[str, Any]) -> socket.socket:
        """Send a request without reading its answer."""
        where = urlsplit(self.server.url)
        line = socket.create_connection((where.hostname, where.port), DEADLINE)
        content = json.dumps(body).encode()
        line.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
        )
        return line


@pytest.mark.requirement("serving.concurrency")
def test_a_few_compute_a_few_wait_and_the_next_is_told_to_come_again(
    threads: ThreadPoolExecutor,
) -> None:
    with Held(threads, max_concurrent=1, max_waiting=1) as held:
        held.gate.close()
        first = held.ask(max_tokens=4)
        wait_until(lambda: held.server.queue.computing == 1)
        second = held.ask(max_tokens=4)
        wait_until(lambda: held.server.queue.waiting == 1)
        with pytest.raises(openai.RateLimitError, match=r"busy: 1 requests are .* 1 wait") as told:
            ask(held.server.client())
        assert told.value.response.headers["retry-after"] == "1"
        assert told.value.code == "server_busy"
        with pytest.raises(openai.RateLimitError):
            ask(held.server.client(), stream=True)
        # Meanwhile the server answers what needs no computation.
        busy = held.server.http.get("/health").json()
        assert busy == {"status": "ok", "computing": 1, "waiting": 1}
        held.gate.open()
        assert first.result(DEADLINE).choices[0].text == second.result(DEADLINE).choices[0].text
        held.server.wait_until_idle()
        ask(held.server.client())


@pytest.mark.requirement("serving.concurrency")
def test_as_many_compute_at_once_as_are_allowed(threads: ThreadPoolExecutor) -> None:
    with Held(threads, max_concurrent=2, max_waiting=4) as held:
        held.gate.close()
        asked = [held.ask(max_tokens=2) for _ in range(5)]
        wait_until(lambda: (held.server.queue.computing, held.server.queue.waiting) == (2, 3))
        held.gate.open()
        assert len({one.result(DEADLINE).choices[0].text for one in asked}) == 1
        held.server.wait_until_idle()


@pytest.mark.requirement("serving.concurrency")
def test_the_client_tries_again_by_itself_when_the_server_is_busy(
    threads: ThreadPoolExecutor,
) -> None:
    with Held(threads, max_concurrent=1, max_waiting=0) as held:
        held.gate.close()
        first = held.ask(max_tokens=1)
        wait_until(lambda: held.server.queue.computing == 1)
        refused = threading.Event()

        def seen(response: httpx.Response) -> None:
            if response.status_code == 429:
                refused.set()

        patient = openai.OpenAI(
            base_url=f"{held.server.url}/v1",
            api_key="none",
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [seen]}),
        )
        second = threads.submit(ask, patient, max_tokens=1)
        assert refused.wait(DEADLINE)
        held.gate.open()
        assert second.result(DEADLINE).choices[0].text == first.result(DEADLINE).choices[0].text


@pytest.mark.requirement("serving.disconnect")
def test_a_stream_that_nobody_reads_any_more_is_not_computed(threads: ThreadPoolExecutor) -> None:
    with Held(threads, max_concurrent=1) as held:
        stream = ask(held.server.client(), max_tokens=ENDLESS, stream=True)
        assert next(iter(stream)).choices[0].text
        assert held.server.queue.computing == 1
        stream.close()
        held.server.wait_until_idle()
        assert held.gate.passes < ENDLESS
        assert ask(held.server.client()).choices[0].text  # the next has its turn


@pytest.mark.requirement("serving.disconnect")
def test_an_answer_that_nobody_waits_for_is_not_computed(threads: ThreadPoolExecutor) -> None:
    with Held(threads, max_concurrent=1) as held:
        line = held.send_raw({"prompt": "a", "max_tokens": ENDLESS})
        wait_until(lambda: held.gate.passes > 2)
        line.close()
        held.server.wait_until_idle()
        assert held.gate.passes < ENDLESS


@pytest.mark.requirement("serving.disconnect")
def test_who_leaves_the_line_gives_up_the_place(threads: ThreadPoolExecutor) -> None:
    with Held(threads, max_concurrent=1, max_waiting=1) as held:
        held.gate.close()
        first = held.ask(max_tokens=2)
        wait_until(lambda: held.server.queue.computing == 1)
        line = held.send_raw({"prompt": "a", "max_tokens": ENDLESS})
        wait_until(lambda: held.server.queue.waiting == 1)
        line.close()
        wait_until(lambda: held.server.queue.waiting == 0)
        third = held.ask(max_tokens=2)
        wait_until(lambda: held.server.queue.waiting == 1)
        held.gate.open()
        assert third.result(DEADLINE).choices[0].text == first.result(DEADLINE).choices[0].text


@pytest.mark.requirement("serving.timeout")
def test_what_takes_too_long_is_given_up_and_said_so(threads: ThreadPoolExecutor) -> None:
    with Held(threads, max_concurrent=1, timeout=0.3) as held:
        with pytest.raises(openai.APIStatusError, match=r"time is up.* 0\.3 seconds") as late:
            ask(held.server.client(max_retries=2), max_tokens=ENDLESS)
        assert late.value.status_code == 408
        assert late.value.response.headers["x-should-retry"] == "false"
        held.server.wait_until_idle()
        held.gate.close()
        computing = held.ask(max_tokens=2)
        wait_until(lambda: held.server.queue.computing == 1)
        waiting = held.ask(max_tokens=2)
        for one in (computing, waiting):
            with pytest.raises(openai.APIStatusError, match="time is up"):
                one.result(DEADLINE)
        held.gate.open()
        held.server.wait_until_idle()


@pytest.mark.requirement("serving.timeout")
def test_a_stream_that_takes_too_long_ends_with_the_error(threads: ThreadPoolExecutor) -> None:
    with Held(threads, timeout=0.3) as held:
        stream = ask(held.server.client(), max_tokens=ENDLESS, stream=True)
        with pytest.raises(openai.APIError, match="time is up"):
            for chunk in stream:
                assert chunk.choices[0].finish_reason is None
        held.server.wait_until_idle()
        body = {"prompt": "a", "max_tokens": ENDLESS, "stream": True}
        *_, last = events(held.server.post(body).text)
        assert last["error"]["code"] == "timeout"


@pytest.mark.requirement("serving.shutdown")
def test_a_server_that_stops_tells_those_who_compute_and_who_wait(
    threads: ThreadPoolExecutor,
) -> None:
    with Held(threads, max_concurrent=1) as held:
        held.gate.close()
        asked = [held.ask() for _ in range(2)]
        wait_until(lambda: held.server.queue.waiting == 1)
        held.server.stop()
        held.gate.open()
        for one in asked:
            with pytest.raises(openai.InternalServerError, match="server is stopping"):
                one.result(DEADLINE)


def test_a_place_that_is_given_to_one_who_leaves_goes_to_the_next() -> None:
    async def scene() -> None:
        queue: ComputeQueue[int] = ComputeQueue(1, 3, DEADLINE)
        go = threading.Event()

        def slow() -> Iterator[int]:
            go.wait(DEADLINE)
            yield 1

        async def read() -> list[int]:
            return [item async for item in queue.run(slow)]

        tasks = [asyncio.create_task(read()) for _ in range(3)]
        while (queue.computing, queue.waiting) != (1, 2):
            await asyncio.sleep(0)
        second = queue._line[0]
        go.set()
        await asyncio.wait([second])  # it has its place, and has not looked yet
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[0] == results[2] == [1]
        assert isinstance(results[1], asyncio.CancelledError) or results[1] == [1]
        while queue.computing:
            await asyncio.sleep(0)
        assert queue.waiting == 0

    asyncio.run(scene())


def test_an_iterator_that_is_closed_early_stops_the_work() -> None:
    async def scene() -> int:
        queue: ComputeQueue[int] = ComputeQueue(1, 0, DEADLINE)
        made = 0

        def count() -> Iterator[int]:
            nonlocal made
            while True:
                made += 1
                yield made

        items = queue.run(count)
        async for item in items:
            if item == 3:
                break
        await items.aclose()  # type: ignore[attr-defined]
        while queue.computing:
            await asyncio.sleep(0.001)
        at_end = made
        with pytest.raises(ApiError):  # a full house refuses at once
            queue._computing = 1
            await anext(queue.run(count))
        assert made == at_end
        return at_end

    assert asyncio.run(scene()) < 1_000_000
