"""Errors as they go over the wire: in the form that OpenAI's clients read.

Source: OpenAI's API reference, "Error codes": an object `error` with `message`, `type`, `param`
and `code`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiny_transformer.runtime.errors import TinyError

INSTALL = "pip install 'tiny-transformer[serve]'"


class ServeError(TinyError):
    """A server that cannot start."""


class ApiError(TinyError):
    """What a request is answered with where it is not served.

    Args:
        message: what was given, what is expected, what to do.
        status: of HTTP, 4xx for the client's mistake.
        param: the field of the request that is wrong.
        code: a short name that a program can look at.
        headers: of the answer.

    Attributes:
        status: as given.
        headers: as given.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._param, self._code = param, code

    def body(self) -> dict[str, Any]:
        """Return the JSON that is sent."""
        kind = "invalid_request_error"
        if self.status >= 500:
            kind = "server_error"
        elif self.status == 401:
            kind = "authentication_error"
        elif self.status == 429:
            kind = "rate_limit_error"
        elif self.status == 408:
            kind = "timeout_error"
        error = {"message": str(self), "type": kind, "param": self._param, "code": self._code}
        return {"error": error}
