"""The routes, as a Starlette application."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import TinyError, suggest
from tiny_transformer.serving.completions import Part, complete, encode_prompts, join_pieces, usage
from tiny_transformer.serving.errors import ApiError
from tiny_transformer.serving.fields import CompletionRequest, read_request
from tiny_transformer.serving.guard import Guard, RequireKey
from tiny_transformer.serving.queue import ComputeQueue
from tiny_transformer.serving.settings import Settings
from tiny_transformer.serving.wire import json_response, read_json, to_json
from tiny_transformer.text.tokenizer import Tokenizer

T = TypeVar("T")

_NOT_SERVED = {
    "/v1/chat/completions": (
        "This is a base model: it continues texts and knows no chat. Send the text to continue as "
        "'prompt' to /v1/completions (client.completions.create)."
    ),
    "/v1/embeddings": ("This model gives no embeddings; it continues texts at /v1/completions."),
}


def create_app(model: Transformer, tokenizer: Tokenizer, settings: Settings) -> Starlette:
    """Return the application that serves a model.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: the one that it was trained with.
        settings: its name, and what is allowed.

    Its `state.queue` is the `ComputeQueue`; `stop()` of that ends all computations.
    """
    service = _Service(model, tokenizer, settings)
    routes = [
        Route("/health", service.health),
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name:path}", service.show_model),
        Route("/v1/completions", service.completions, methods=["POST"]),
        *(Route(path, _not_served, methods=["GET", "POST"]) for path in _NOT_SERVED),
    ]
    middleware = [
        Middleware(Guard, hosts=settings.hosts, allow_origins=settings.allow_origins),
        *(
            [
                Middleware(
                    CORSMiddleware,
                    allow_origins=settings.allow_origins,
                    allow_methods=["GET", "POST"],
                    allow_headers=["*"],
                )
            ]
            if settings.allow_origins
            else []
        ),
        *([Middleware(RequireKey, api_key=settings.api_key)] if settings.api_key else []),
    ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            ApiError: _answer_api_error,
            TinyError: _answer_tiny_error,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_fault,
        },
    )
    app.router.redirect_slashes = False
    app.state.queue = service.queue
    return app


class _Service:
    """The endpoints, and what they share."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, settings: Settings) -> None:
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self.queue: ComputeQueue[Part] = ComputeQueue(
            settings.max_concurrent, settings.max_waiting, settings.timeout
        )

    async def health(self, request: Request) -> Response:
        """Say that the server is there, and how busy it is."""
        busy = {"computing": self.queue.computing, "waiting": self.queue.waiting}
        return json_response({"status": "ok", **busy})

    async def list_models(self, request: Request) -> Response:
        """List the one model."""
        return json_response({"object": "list", "data": [self._card()]})

    async def show_model(self, request: Request) -> Response:
        """Describe the model of a name."""
        self._check_model(request.path_params["name"])
        return json_response(self._card())

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        settings = self._settings
        body = await read_json(request, settings.max_body, settings.max_body_seconds)
        order = read_request(body, settings, self._tokenizer.vocab_size)
        self._check_model(order.model)
        limit = self._model.config.context_length
        prompts = encode_prompts(order.prompts, self._tokenizer, limit, settings)
        parts = self.queue.run(lambda: complete(self._model, self._tokenizer, order, prompts))
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": settings.model_id,
            "system_fingerprint": settings.fingerprint,
            "seed": order.sampling.seed,
        }
        n_prompt = sum(map(len, prompts))
        if not order.stream:
            answer = await _unless_gone(request, _collect(head, parts, n_prompt))
            return json_response(answer)
        # An error before the first token is an answer with its status, not a broken stream.
        first = await _unless_gone(request, anext(parts))
        return StreamingResponse(
            _events(head, order, first, parts, n_prompt),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )

    def _card(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "id": settings.model_id,
            "object": "model",
            "created": settings.created,
            "owned_by": "tiny-transformer",
            "system_fingerprint": settings.fingerprint,
            "context_length": self._model.config.context_length,
            "max_tokens": settings.max_tokens,
            "vocab_size": self._tokenizer.vocab_size,
        }

    def _check_model(self, name: str | None) -> None:
        served = self._settings.model_id
        if name is not None and name != served:
            raise ApiError(
                f"There is no model {name!r} here. {suggest(name, [served])}",
                status=404,
                param="model",
                code="model_not_found",
            )


async def _collect(head: dict[str, Any], parts: AsyncIterator[Part], n_prompt: int) -> Any:
    pieces, n_tokens = [], 0
    async with contextlib.aclosing(parts):  # pyright: ignore[reportArgumentType]
        async for part in parts:
            pieces += part.pieces
            n_tokens += part.n_tokens
    return {**head, "choices": join_pieces(pieces), "usage": usage(n_prompt, n_tokens)}


async def _events(
    head: dict[str, Any],
    order: CompletionRequest,
    first: Part,
    parts: AsyncIterator[Part],
    n_prompt: int,
) -> AsyncIterator[str]:
    """Yield the lines of a stream of events. An error ends it with an event that tells of it."""
    extra = {"usage": None} if order.include_usage else {}
    n_tokens = 0
    async with contextlib.aclosing(parts):  # pyright: ignore[reportArgumentType]
        try:
            async for part in _with_first(first, parts):
                n_tokens += part.n_tokens
                for piece in part.pieces:
                    yield _event({**head, "choices": [piece], **extra})
        except TinyError as error:
            yield _event(_as_api_error(error).body())
            return
    if order.include_usage:
        yield _event({**head, "choices": [], "usage": usage(n_prompt, n_tokens)})
    yield "data: [DONE]\n\n"


async def _with_first(first: Part, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
    yield first
    async for part in parts:
        yield part


def _event(value: Any) -> str:
    return f"data: {to_json(value)}\n\n"


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for some work, and cancel it if the client hangs up meanwhile."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# Errors


async def _not_served(request: Request) -> Response:
    raise ApiError(_NOT_SERVED[request.url.path], status=404, code="not_served")


def _as_api_error(error: TinyError) -> ApiError:
    # What else the package raises is about the model, not about the request.
    return error if isinstance(error, ApiError) else ApiError(str(error), status=500)


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return json_response(error.body(), error.status, error.headers)


async def _answer_tiny_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TinyError)
    return await _answer_api_error(request, _as_api_error(error))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    message, code = str(error.detail), None
    if error.status_code == 404:
        known = ("/v1/completions", "/v1/models", "/health")
        near = f"Did you mean '/v1{path}'?" if f"/v1{path}" in known else suggest(path, known)
        message, code = f"There is no {path} here. {near}", "unknown_url"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message, code = f"{path} does not take {method}; use {allowed}.", "method_not_allowed"
    answer = ApiError(message, status=error.status_code, code=code, headers=error.headers)
    return await _answer_api_error(request, answer)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; nginx logs this number


async def _answer_fault(request: Request, error: Exception) -> Response:
    message = "The server failed at this request; its own output says why."
    return await _answer_api_error(request, ApiError(message, status=500, code="internal_error"))
