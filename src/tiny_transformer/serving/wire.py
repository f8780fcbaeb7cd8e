"""JSON in and out: a bounded body, and answers of plain ASCII."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.responses import Response

from tiny_transformer.serving.errors import ApiError


def to_json(value: Any) -> str:
    """Return strict JSON of ASCII characters: any text can be in it, half a character too."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer of JSON."""
    return Response(to_json(body), status, dict(headers or {}), "application/json")


async def read_json(request: Request, max_bytes: int, max_seconds: float) -> dict[str, Any]:
    """Return the object that a request's body holds.

    Args:
        request: whose body nobody has read yet.
        max_bytes: of the body; no more than these are kept in memory.
        max_seconds: for all of it to arrive.

    Raises:
        ApiError: it is not declared as JSON (415), too large (413), too slow (408), not JSON or
            not an object (400).
    """
    declared = request.headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            f"The body's Content-Type is {declared or 'missing'!r}; send JSON with "
            "'Content-Type: application/json'.",
            status=415,
            code="unsupported_media_type",
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    try:
        async with asyncio.timeout(max_seconds):
            async for piece in request.stream():
                data += piece
                if len(data) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise ApiError(
            f"The body did not arrive within {max_seconds:g} seconds.", status=408, code="timeout"
        ) from None
    return parse_object(bytes(data))


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Raises:
        ApiError: it is not one; the message says where it ends to be JSON.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits, or NaN
        raise _not_json(str(error)) from None
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ApiError(
            f"The body is {json_type(value)}; it must be an object, such as "
            '{"model": "...", "prompt": "..."}.'
        )
    return value


def json_type(value: object) -> str:
    """Return what JSON calls the type of a value, with its article."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    names = {type(None): "null", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _not_json(why: str) -> ApiError:
    return ApiError(f"The body is not JSON: {why}.", code="invalid_json")


def _too_large(most: int) -> ApiError:
    return ApiError(
        f"The body is too large; this server reads up to {most:,} bytes.",
        status=413,
        code="request_too_large",
        headers={"Connection": "close"},
    )
