"""A tiny model behind a real server on a loopback port, and a model that waits to be let on."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import torch
import uvicorn

from tiny_transformer.config import ModelConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.serving.app import create_app
from tiny_transformer.serving.queue import ComputeQueue
from tiny_transformer.serving.server import bind, url_of, uvicorn_config
from tiny_transformer.serving.settings import Settings
from tiny_transformer.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer()
CONTEXT = 24
DEADLINE = 30.0  # seconds after which a test gives up waiting


def build(seed: int = 3) -> Transformer:
    """Return a model whose logits differ enough to make all choices matter."""
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, context_length=CONTEXT)
    model = Transformer(config, seed=seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def settings(**changes: Any) -> Settings:
    return Settings(**{"model_id": "small", "fingerprint": "small-step-00000006", **changes})


@dataclass
class Server:
    """A server that runs, and clients of it."""

    url: str
    queue: ComputeQueue[Any]
    model: Transformer
    http: httpx.Client
    """For requests that the official client would not send."""
    stop: Callable[[], object]
    """Ends what computes and waits, as the end of a server does."""

    def client(self, **options: Any) -> openai.OpenAI:
        """Return the official client; it does not try again."""
        defaults = {"api_key": "none", "max_retries": 0, "timeout": DEADLINE}
        return openai.OpenAI(base_url=f"{self.url}/v1", **{**defaults, **options})

    def post(self, body: Any, **options: Any) -> httpx.Response:
        """Ask for a completion without the client."""
        return self.http.post("/v1/completions", json=body, **options)

    def wait_until_idle(self) -> None:
        wait_until(lambda: self.queue.computing == 0 and self.queue.waiting == 0)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something holds; fail after the deadline."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


@contextlib.contextmanager
def running(model: Transformer | None = None, **changes: Any) -> Iterator[Server]:
    """Run a server on a free port of the loopback, in a thread."""
    model = model or build()
    app = create_app(model, TOKENIZER, settings(**changes))
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        url, queue = url_of(listener), app.state.queue
        with httpx.Client(base_url=url, timeout=DEADLINE) as http:
            loop = server.servers[0].get_loop()
            yield Server(url, queue, model, http, lambda: loop.call_soon_threadsafe(queue.stop))
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        assert not thread.is_alive()


class Gate:
    """Holds up a model before each of its passes, while it is closed.

    A model with a hook is computed by its own forward pass, a pass for each token.
    """

    def __init__(self, model: Transformer) -> None:
        self.passes = 0
        self._open = threading.Event()
        self._open.set()
        model.register_forward_pre_hook(self._hold)

    def _hold(self, *_: object) -> None:
        self.passes += 1
        assert self._open.wait(DEADLINE)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


def events(text: str) -> list[Any]:
    """Return what the lines of a stream hold; its end is `[DONE]`."""
    lines = [line for line in text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    contents = [line.removeprefix("data: ") for line in lines]
    return [c if c == "[DONE]" else json.loads(c) for c in contents]
